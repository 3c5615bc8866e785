/** A hole in a picture, which is cut with mouse, finger or keys. */
import {cellsBetween, draggable, keys, set} from './common.js';

/**
 * Press, drag, or use arrow keys and space to cut out cells or to put them back.
 * @param {{picture: Element, cursor: Element}} view a square picture, and the frame that shows in
 *   the SVG over it where the keys are
 * @param {number} grid cells along a side
 * @param {function} hole the cells that are cut out, as a list
 * @param {function} changed called with another list
 * @param {function} say gets what a screen reader says
 */
export function cutHoles({picture, cursor: mark}, grid, hole, changed, say) {
  let cursor = Math.floor(grid * grid / 2), adding = true, before;
  const inside = cell => hole().includes(cell);
  const isThere = (row, column) => Math.min(row, column) >= 0 && Math.max(row, column) < grid;
  function cut(cells, first) {
    if (first && cells.length) adding = !inside(cells[0]);
    const others = cells.filter(cell => inside(cell) !== adding);
    if (!others.length) return;
    changed(adding ? [...hole(), ...others] : hole().filter(cell => !others.includes(cell)));
  }
  function move(rows, columns) {
    const [row, column] = [Math.floor(cursor / grid) + rows, cursor % grid + columns];
    if (!isThere(row, column)) return;
    cursor = row * grid + column;
    set(mark, {x: column, y: row});
    say(`row ${row + 1}, column ${column + 1}${inside(cursor) ? ', in the hole' : ''}`);
  }
  set(picture, {tabindex: 0, role: 'application', class: 'rar-picture rar-drawn',
    'data-lm-suppress-shortcuts': 'true'});
  draggable(picture, (x, y, first) => {
    cut(cellsBetween(first ? [x, y] : before, [x, y], grid), first);
    before = [x, y];
  });
  keys(picture, {ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0),
    ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1), ' ': () => cut([cursor], true)});
  picture.addEventListener('focus', () => {
    set(mark, {visibility: picture.matches(':focus-visible') ? 'visible' : 'hidden'});
    move(0, 0);
  });
  picture.addEventListener('blur', () => set(mark, {visibility: 'hidden'}));
}
