/** Scan orders: walk through a grid, step by step. */
import {change, follow, frame, html, set, slider, svg} from './common.js';
import {SCAN_ORDERS} from './orders.js';

function render({model, el}) {
  const root = frame(el, 'Scan orders');
  const g = model.get('grid_size'), order = SCAN_ORDERS[model.get('order')](g);
  const cells = order.map(cell => svg('rect', {x: cell % g, y: Math.floor(cell / g), width: 1,
    height: 1, fill: 'var(--rar-cell)', stroke: 'var(--rar-paper)', 'stroke-width': 0.05}));
  const steps = slider('step', {max: order.length, oninput: step => change(model, {step})});
  root.append(html('div', {class: 'rar-row'}, steps.element),
    svg('svg', {viewBox: `0 0 ${g} ${g}`, role: 'img', width: 400}, ...cells));
  function draw() {
    const step = model.get('step');
    steps.show({value: step, text: `${step} of ${order.length}`});
    cells.forEach((cell, k) => set(cell, {fill: k < step ? 'var(--rar-known)'
      : k === step ? 'var(--rar-next)' : 'var(--rar-cell)'}));
  }
  draw();
  return follow(model, ['step'], draw);
}

export default {render};
