/** A hole in a picture, which is cut with mouse, finger or keys. */
import {draggable, keys, set} from './common.js';

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
  let cursor = Math.floor(grid * grid / 2), adding = true;
  const inside = cell => hole().includes(cell);
  const isThere = (row, column) => Math.min(row, column) >= 0 && Math.max(row, column) < grid;
  function cut(cell, first) {
    if (first) adding = !inside(cell);
    if (inside(cell) === adding) return;
    changed(adding ? [...hole(), cell] : hole().filter(other => other !== cell));
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
    const [column, row] = [x, y].map(share => Math.floor(share * grid));
    if (isThere(row, column)) cut(row * grid + column, first);
  });
  keys(picture, {ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0),
    ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1), ' ': () => cut(cursor, true)});
  picture.addEventListener('focus', () => {
    set(mark, {visibility: picture.matches(':focus-visible') ? 'visible' : 'hidden'});
    move(0, 0);
  });
  picture.addEventListener('blur', () => set(mark, {visibility: 'hidden'}));
}
