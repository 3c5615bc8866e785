/** Small pictures of orders, as `tile_orders` makes them in Python. */
import {COLORS} from './common.js';

const rgb = hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
const RANDOM = rgb(COLORS.random), FINAL = rgb(COLORS.raster);

/**
 * A tile for each order, framed orange if it is random, else blue; the brighter a cell, the later.
 * @param {Array<{steps: Int32Array, random: boolean}>} tiles each with the step of every cell
 * @returns {{width: number, height: number, data: Uint8ClampedArray}} RGBA, between tiles nothing
 */
export function tilePixels(tiles, columns, g) {
  const size = g + 2, apart = size + 1;  // a frame of one pixel, a gap of one
  const width = columns * apart - 1, height = Math.ceil(tiles.length / columns) * apart - 1;
  const data = new Uint8ClampedArray(4 * width * height);
  tiles.forEach(({steps, random}, i) => {
    const left = i % columns * apart, top = Math.floor(i / columns) * apart;
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const inside = x > 0 && x <= g && y > 0 && y <= g;
        const grey = inside ? 255 * steps[(y - 1) * g + x - 1] / (g * g - 1) : 0;
        const at = 4 * ((top + y) * width + left + x), edge = random ? RANDOM : FINAL;
        for (let c = 0; c < 3; c++) data[at + c] = inside ? grey : edge[c];
        data[at + 3] = 255;
      }
    }
  });
  return {width, height, data};
}
