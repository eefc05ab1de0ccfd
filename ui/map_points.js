// The points of a map: the file, the nearest to a place, colours by a label.
window.lclPoints = (() => {
  'use strict';
  const OTHERS = 11;             // colour of the labels beyond the palette, and of images without one (style.css)
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // A safetensors file: length of the header, header as JSON, tensors.
  function parse(buffer) {
    const length = Number(new DataView(buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
    const about = header.__metadata__;
    const tensor = (name, Kind) => {
      const [from, to] = header[name].data_offsets;
      return new Kind(buffer, 8 + length + from, (to - from) / Kind.BYTES_PER_ELEMENT);
    };
    const points = tensor('points', Float32Array), keys = tensor('ids', BigUint64Array);
    const labels = JSON.parse(about.labels);
    return {
      points, labels, about, count: keys.length, total: Number(about.total), grid: gridOf(points),
      id: (index) => `img_${keys[index].toString(16).padStart(16, '0')}`,
      index: (id) => (/^img_[0-9a-f]{16}$/.test(id ?? '') ? keys.indexOf(BigInt(`0x${id.slice(4)}`)) : -1),
      codes: (label) => (labels[label] ? tensor(`label.${label}`, Int16Array) : null),
    };
  }

  // Points by cells of the plane, for the nearest to a place.
  function gridOf(points) {
    const count = points.length / 2, side = clamp(Math.ceil(Math.sqrt(count / 2)), 1, 512);
    const cell = (value) => clamp(Math.floor((value + 1) / 2 * side), 0, side - 1);
    const starts = new Uint32Array(side * side + 1), members = new Uint32Array(count);
    const of = (index) => cell(points[2 * index + 1]) * side + cell(points[2 * index]);
    for (let index = 0; index < count; index++) starts[of(index) + 1]++;
    for (let at = 0; at < side * side; at++) starts[at + 1] += starts[at];
    const filled = starts.slice();
    for (let index = 0; index < count; index++) members[filled[of(index)]++] = index;
    return (x, y, reach, allowed) => {
      let best = -1, least = reach * reach;
      for (let row = cell(y - reach); row <= cell(y + reach); row++) {
        for (let at = starts[row * side + cell(x - reach)]; at < starts[row * side + cell(x + reach) + 1]; at++) {
          const index = members[at], dx = points[2 * index] - x, dy = points[2 * index + 1] - y;
          const distance = dx * dx + dy * dy;
          if (distance <= least && allowed(index)) { least = distance; best = index; }
        }
      }
      return best;
    };
  }

  function inside(polygon, x, y) {
    let odd = false;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
      const [ax, ay] = polygon[i], [bx, by] = polygon[j];
      if ((ay > y) !== (by > y) && x < ax + (bx - ax) * (y - ay) / (by - ay)) odd = !odd;
    }
    return odd;
  }

  // Colours of the images by one label: the commonest values have one each.
  function colouring(data, label) {
    const codes = data.codes(label), colours = new Uint8Array(data.count).fill(OTHERS), entries = [];
    if (codes) {
      const values = data.labels[label], counts = new Uint32Array(values.length);
      for (const code of codes) if (code >= 0) counts[code]++;
      const ranked = [...counts.keys()].filter((code) => counts[code]).sort((a, b) => counts[b] - counts[a]).slice(0, OTHERS);
      const colour = new Uint8Array(values.length).fill(OTHERS);
      ranked.forEach((code, place) => { colour[code] = place; entries.push({ colour: place, name: values[code], count: counts[code] }); });
      codes.forEach((code, index) => { if (code >= 0) colours[index] = colour[code]; });
      const rest = data.count - entries.reduce((sum, { count }) => sum + count, 0);
      if (rest) entries.push({ colour: OTHERS, name: 'others', count: rest });
    }
    // those without a colour lie below
    const order = new Uint32Array(data.count);
    let low = 0, high = data.count;
    for (let index = data.count - 1; index >= 0; index--) if (colours[index] !== OTHERS) order[--high] = index;
    for (let index = 0; index < data.count; index++) if (colours[index] === OTHERS) order[low++] = index;
    return { colours, entries, order, value: (index) => (codes && codes[index] >= 0 ? data.labels[label][codes[index]] : '') };
  }

  return { OTHERS, clamp, parse, inside, colouring };
})();
