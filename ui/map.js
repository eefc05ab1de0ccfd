// The map of a collection: a file of points drawn on a canvas. Zoom, a lasso, keys, the image under the pointer.
(() => {
  'use strict';
  const { OTHERS, clamp, parse, inside, colouring } = window.lclPoints;
  const MOST_ZOOM = 400, PAN_STEP = 60, TAP_PX = 5, REACH_PX = 14, SHOWN = 24, MARGIN_PX = 26;
  const REST_MS = 60;            // of the pointer on an image, before it is asked for
  const NEAR = 60;               // images in view that are shown as images
  const PREFERRED = ['group', 'category', 'subgroup'];  // labels with few values
  const figure = (value) => value.toLocaleString('en');
  const percent = (share) => `${share < 0.1 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;
  const make = (name, properties = {}, ...inside) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...inside);
    return made;
  };

  const seen = new Map();        // by address of the file: view, selection and current image, while the page draws anew
  const files = new Map();       // the last file
  const captions = new Map();    // of images that were looked at
  const thumbnails = new Map();  // of images that were near, by address

  function load(source) {
    if (!files.has(source)) {
      files.clear();
      const file = fetch(source).then(async (answer) => {
        if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
        return parse(await answer.arrayBuffer());
      });
      file.catch(() => files.delete(source));
      files.set(source, file);
    }
    return files.get(source);
  }

  class CollectionMap {
    constructor(root, data) {
      Object.assign(this, { root, data, collection: root.dataset.collection });
      for (const part of ['facts', 'said', 'chosen', 'at', 'pick']) this[part] = root.querySelector(`.lcl-map__${part}`);
      [this.stage, this.canvas, this.tip, this.legend, this.tags, this.colours, this.lasso] = ['.lcl-map__stage', 'canvas', '.lcl-tip', '.lcl-legend', '.lcl-tag', '.lcl-map__colour', '[data-tool="lasso"]'].map((name) => root.querySelector(name));
      this.context = this.canvas.getContext('2d');
      this.state = seen.get(root.dataset.source) ?? { view: null, chosen: null, current: -1, label: null };
      seen.set(root.dataset.source, this.state);
      this.state.view ??= this.addressed() ?? this.whole();
      [this.close, this.hovered] = [[], -1];  // the images that are shown as such, the one under the pointer
      this.pointers = new Map();
      this.describe();
      this.paint(this.state.label ?? new URLSearchParams(location.search).get('colour'));
      this.drawChosen();
      this.setLasso(false);
      this.follow();
      this.listen();
      new ResizeObserver(() => this.resize()).observe(this.stage);
      this.resize();
    }

    whole() { return { x: 0, y: 0, zoom: 1 }; }
    // ?at=X,Y,ZOOM
    addressed() {
      const numbers = (new URLSearchParams(location.search).get('at') ?? '').split(',').map(Number);
      if (numbers.length !== 3 || !numbers.every(Number.isFinite)) return null;
      return { x: clamp(numbers[0], -1, 1), y: clamp(numbers[1], -1, 1), zoom: clamp(numbers[2], 1, MOST_ZOOM) };
    }

    describe() {
      const { count, total, about } = this.data;
      const axes = about.method === 'tsne' ? 't-SNE: what is near is alike, what is far says nothing' : `principal axes, ${percent(Number(about.variance))} of the variance`;
      const words = [`${figure(count)} of ${figure(total)} images`, axes];
      if (about.neighbours_kept) words.push(`${percent(Number(about.neighbours_kept))} of neighbours kept`);
      if (about.method === 'pca' && this.root.dataset.source.endsWith('tsne')) words.push('its index run left no neighbours: index it again');
      this.facts.textContent = words.join(' · ');
    }

    // Colours by a label.
    paint(wanted) {
      const names = Object.keys(this.data.labels).sort();
      this.usual = PREFERRED.find((name) => names.includes(name)) ?? names[0] ?? '';
      const label = names.includes(wanted) ? wanted : this.usual;
      this.state.label = label;
      this.label = colouring(this.data, label);
      this.only = null;          // the colour that is brought out
      this.colours.replaceChildren(...names.map((name) => make('option', { textContent: name, selected: name === label })));
      this.canvas.setAttribute('aria-label', `Map of ${figure(this.data.count)} images${label && `, coloured by ${label}`}`);
      this.drawLegend();
      this.redraw();
      this.note();
    }

    drawLegend() {
      this.legend.replaceChildren(...this.label.entries.map(({ colour, name, count }) => {
        const button = make('button', { type: 'button' },
          make('i', { className: `lcl-c${colour}` }), make('span', { textContent: name, title: name }), make('em', { textContent: figure(count) }));
        button.dataset.legend = colour;
        button.setAttribute('aria-pressed', 'false');
        button.addEventListener('click', () => this.bringOut(this.only === colour ? null : colour));
        return make('li', {}, button);
      }));
    }

    bringOut(colour) {
      this.only = colour;
      for (const button of this.legend.querySelectorAll('button')) button.setAttribute('aria-pressed', String(Number(button.dataset.legend) === colour));
      this.redraw();
    }

    shows(index) { return this.only === null || this.label.colours[index] === this.only; }
    bright(index) { return this.shows(index) && (!this.state.chosen || this.state.chosen.has(index)); }

    // Geometry: pixels of the page from the middle of the stage.
    get scale() { return Math.max(1, Math.min(this.width, this.height) / 2 - MARGIN_PX) * this.state.view.zoom; }
    screen(index) {
      const { view } = this.state, { points } = this.data;
      return [this.width / 2 + (points[2 * index] - view.x) * this.scale, this.height / 2 - (points[2 * index + 1] - view.y) * this.scale];
    }
    plane(x, y) {
      const { view } = this.state;
      return [view.x + (x - this.width / 2) / this.scale, view.y - (y - this.height / 2) / this.scale];
    }
    nearest(x, y) {
      const reach = this.close.length ? Math.max(REACH_PX, this.size / 2) : REACH_PX;
      return this.data.grid(...this.plane(x, y), reach / this.scale, (index) => this.shows(index));
    }

    zoom(factor, x = this.width / 2, y = this.height / 2) {
      const { view } = this.state, [px, py] = this.plane(x, y);
      view.zoom = clamp(view.zoom * factor, 1, MOST_ZOOM);
      view.x = px - (x - this.width / 2) / this.scale;
      view.y = py + (y - this.height / 2) / this.scale;
      this.moved();
    }
    pan(dx, dy) {
      this.state.view.x -= dx / this.scale;
      this.state.view.y += dy / this.scale;
      this.moved();
    }
    moved() {
      const { view } = this.state;
      if (view.zoom === 1) Object.assign(view, this.whole());
      view.x = clamp(view.x, -1, 1);
      view.y = clamp(view.y, -1, 1);
      this.redraw();
      clearTimeout(this.settling);
      this.settling = setTimeout(() => { this.settling = null; this.note(); this.redraw(); }, 250);
    }
    // The address keeps the part of the map on show, and the colours.
    note() {
      const { view: { x, y, zoom }, label } = this.state;
      const at = zoom === 1 ? {} : { at: [x, y, zoom].map((number) => Number(number.toPrecision(5))).join(',') };
      this.at.dataset.view = JSON.stringify(label === this.usual ? at : { ...at, colour: label });
    }

    resize() {
      const { clientWidth, clientHeight } = this.stage;
      if (!clientWidth || !clientHeight) return;
      this.ratio = clamp(window.devicePixelRatio || 1, 1, 2);
      [this.width, this.height] = [clientWidth, clientHeight];
      [this.canvas.width, this.canvas.height] = [clientWidth, clientHeight].map((size) => Math.round(size * this.ratio));
      this.draw();
    }
    redraw() {
      this.canvas.style.touchAction = this.lassoing || this.state.view.zoom > 1 ? 'none' : 'pan-y';
      this.frame ??= requestAnimationFrame(() => { this.frame = null; this.draw(); });
    }
    draw() {
      if (!this.width || !this.root.isConnected) return;
      this.close = this.near();
      this.drawDots();
      this.drawThumbnails();
      this.drawRing(this.state.current, 3);
      if (this.hovered !== this.state.current) this.drawRing(this.hovered, 1.5);
      if (this.path) this.drawPath();
      this.canvas.dispatchEvent(new Event('lcl-drawn'));
    }
    colour(name) { return getComputedStyle(this.stage).getPropertyValue(name).trim(); }
    // Discs are drawn once for each colour, and copied: that is faster than as many paths.
    drawDots() {
      const { context, ratio, label } = this;
      context.fillStyle = this.colour('--lcl-sunk');
      context.fillRect(0, 0, this.canvas.width, this.canvas.height);
      this.radius = clamp(clamp(40 / Math.sqrt(this.data.count), 0.17, 1) * 4.6 * this.state.view.zoom ** 0.35, 1.5, 6.5);
      const middle = Math.ceil(this.radius * ratio) + 1, discs = Array.from({ length: OTHERS + 1 }, (_, place) => this.disc(`--lcl-c${place}`, middle));
      const filtered = this.only !== null || this.state.chosen !== null;
      for (const [bright, strength] of filtered ? [[false, 0.12], [true, 0.84]] : [[true, 0.84]]) {
        context.globalAlpha = strength;
        for (const index of label.order) {
          if (filtered && this.bright(index) !== bright) continue;
          const [x, y] = this.screen(index);
          if (x < -10 || y < -10 || x > this.width + 10 || y > this.height + 10) continue;
          context.drawImage(discs[label.colours[index]], Math.round(x * ratio) - middle, Math.round(y * ratio) - middle);
        }
      }
      context.globalAlpha = 1;
    }
    disc(name, middle) {
      const disc = make('canvas', { width: 2 * middle, height: 2 * middle }), context = disc.getContext('2d');
      context.fillStyle = this.colour(name);
      context.arc(middle, middle, this.radius * this.ratio, 0, 2 * Math.PI);
      context.fill();
      return disc;
    }
    // The images in view, if they are few.
    near() {
      const [left, high] = this.plane(0, 0), [right, low] = this.plane(this.width, this.height), { points, count } = this.data, found = [];
      for (let index = 0; index < count && found.length <= NEAR; index++) {
        const x = points[2 * index], y = points[2 * index + 1];
        if (x >= left && x <= right && y >= low && y <= high && this.shows(index)) found.push(index);
      }
      return found.length > NEAR ? [] : found;
    }
    drawThumbnails() {
      const { context, ratio, close, hovered, state: { current } } = this;
      this.size = clamp(0.6 * Math.sqrt(this.width * this.height / Math.max(close.length, 1)), 36, 76);
      for (const index of close.includes(hovered) ? [...close, hovered] : close) {
        const image = this.thumbnailAt(index);
        if (!image) continue;
        const scale = this.size * ratio / Math.max(image.naturalWidth, image.naturalHeight);
        const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale], [x, y] = this.screen(index);
        const box = [x * ratio - width / 2, y * ratio - height / 2, width, height];
        context.globalAlpha = this.bright(index) ? 1 : 0.25;
        context.fillStyle = '#fff';  // of drawings without a background
        context.fillRect(...box);
        context.drawImage(image, ...box);
        const marked = index === current || index === hovered;
        context.lineWidth = (marked ? 4 : 2) * ratio;
        context.strokeStyle = this.colour(marked ? '--lcl-ink' : `--lcl-c${this.label.colours[index]}`);
        context.strokeRect(...box);
      }
      context.globalAlpha = 1;
    }
    // An image that is there; others are fetched while the map is at rest.
    thumbnailAt(index) {
      const source = this.media(this.data.id(index)), known = thumbnails.get(source);
      if (!known && !this.settling) {
        const image = make('img', { onload: () => this.redraw(), src: source });
        thumbnails.set(source, image);
        if (thumbnails.size > 500) thumbnails.delete(thumbnails.keys().next().value);
      }
      return known?.complete && known.naturalWidth ? known : null;
    }
    drawRing(index, width) {
      if (index < 0 || this.close.includes(index)) return;
      const { context, ratio } = this, [x, y] = this.screen(index);
      context.lineWidth = width * ratio;
      context.strokeStyle = this.colour('--lcl-ink');
      context.beginPath();
      context.arc(x * ratio, y * ratio, (this.radius + 3) * ratio, 0, 2 * Math.PI);
      context.stroke();
    }
    drawPath() {
      const { context, ratio } = this;
      context.lineWidth = 1.5 * ratio;
      context.strokeStyle = context.fillStyle = this.colour('--lcl-accent');
      context.beginPath();
      for (const [x, y] of this.path) context.lineTo(x * ratio, y * ratio);
      context.closePath();
      context.stroke();
      context.globalAlpha = 0.12;
      context.fill();
      context.globalAlpha = 1;
    }

    // The image under the pointer, or the current one.
    point(index) {
      if (index === this.hovered) return;
      clearTimeout(this.resting);
      this.hovered = index;
      this.redraw();
      this.tip.hidden = index < 0;
      if (index < 0) return;
      const image = make('img', { alt: '' }), words = make('span'), id = this.data.id(index);
      this.tip.replaceChildren(image, words, make('small', { textContent: this.label.value(index) }));
      const [x, y] = this.screen(index);
      this.tip.style.left = `${clamp(x + 14, 0, Math.max(0, this.width - 170))}px`;
      this.tip.style.top = `${y > this.height - 150 ? y - 130 : y + 14}px`;
      this.resting = setTimeout(() => {
        image.src = this.media(id);
        this.caption(id).then((caption) => { words.textContent = caption; });
      }, REST_MS);
    }
    media(id) { return `media/${encodeURIComponent(this.collection)}/${id}`; }
    // Its caption; the id where it has none, or while it cannot be fetched.
    async caption(id) {
      const key = `${this.collection}/${id}`;
      if (!captions.has(key)) {
        const fetched = fetch(`item/${encodeURIComponent(this.collection)}/${id}`).then(async (answer) => {
          if (!answer.ok) throw new Error(`status ${answer.status}`);
          return (await answer.json()).caption || id;
        });
        fetched.catch(() => captions.delete(key));
        captions.set(key, fetched);
        if (captions.size > 2000) captions.delete(captions.keys().next().value);
      }
      return captions.get(key).catch(() => id);
    }
    async say(index) {
      const caption = await this.caption(this.data.id(index)), value = this.label.value(index);
      if (this.state.current === index) this.said.textContent = [caption, value].filter(Boolean).join(', ');
    }
    go(index) {
      if (index < 0) return;
      this.state.current = index;
      const [x, y] = this.screen(index);
      if (x < 0 || y < 0 || x > this.width || y > this.height) {
        [this.state.view.x, this.state.view.y] = this.data.points.subarray(2 * index, 2 * index + 2);
        this.moved();
      }
      this.hovered = -1;
      this.point(index);
      this.say(index);
    }
    open(index) {
      if (index < 0) return;
      this.state.current = index;
      this.redraw();
      this.pick.dataset.pick = `image:${this.collection}:${this.data.id(index)}`;
      this.pick.click();
    }
    // The image whose details are open is the current one.
    follow() {
      const open = document.querySelector('#map-detail [data-view]');
      const index = open ? this.data.index(JSON.parse(open.dataset.view).item) : -1;
      if (index >= 0 && index !== this.state.current) { this.state.current = index; this.redraw(); }
    }

    choose(indices) {
      this.state.chosen = indices.size ? indices : null;
      this.more = 0;
      this.drawChosen();
      this.redraw();
    }
    within(test) {
      const found = new Set(), { points } = this.data;
      for (let index = 0; index < this.data.count; index++) {
        if (this.shows(index) && test(points[2 * index], points[2 * index + 1])) found.add(index);
      }
      return found;
    }
    chooseVisible() {
      const [left, high] = this.plane(0, 0), [right, low] = this.plane(this.width, this.height);
      this.choose(this.within((x, y) => x >= left && x <= right && y >= low && y <= high));
    }
    drawChosen() {
      const { chosen } = this.state, shown = SHOWN * (1 + (this.more ?? 0));
      this.chosen.hidden = !chosen;
      if (!chosen) { this.chosen.replaceChildren(); return; }
      const act = (words, then) => { const button = make('button', { type: 'button', textContent: words }); button.addEventListener('click', then); return button; };
      const words = make('p', { textContent: `${figure(chosen.size)} of ${figure(this.data.count)} selected` });
      words.setAttribute('role', 'status');
      const head = make('div', { className: 'lcl-map__head' }, words, act('Clear', () => { this.choose(new Set()); this.canvas.focus(); }));
      const list = make('ul', { className: 'lcl-samples' }, ...[...chosen].slice(0, shown).map((index) => make('li', {}, this.thumbnail(index))));
      this.tags.dataset.values = JSON.stringify({ items: [...chosen].map((index) => this.data.id(index)) });
      this.chosen.replaceChildren(head, this.tags, list);
      if (chosen.size > shown) this.chosen.append(act(`Show ${Math.min(SHOWN, chosen.size - shown)} more`, () => { this.more = (this.more ?? 0) + 1; this.drawChosen(); }));
    }
    thumbnail(index) {
      const id = this.data.id(index), button = make('button', { type: 'button' }, make('img', { src: this.media(id), alt: '', loading: 'lazy' }));
      button.dataset.pick = `image:${this.collection}:${id}`;
      button.setAttribute('aria-label', `Look at ${id}`);
      this.caption(id).then((caption) => { button.title = caption; button.setAttribute('aria-label', `Look at ${caption}`); });
      return button;
    }
    listen() {
      const on = (name, act, options) => this.canvas.addEventListener(name, act, options);
      on('wheel', (event) => this.wheel(event), { passive: false });
      on('pointerdown', (event) => this.press(event));
      on('pointermove', (event) => this.move(event));
      on('pointerup', (event) => this.release(event, true));
      on('pointercancel', (event) => this.release(event, false));
      on('pointerleave', () => this.point(-1));
      on('keydown', (event) => this.key(event));
      on('blur', () => this.point(-1));
      const tools = { in: () => this.zoom(1.6), out: () => this.zoom(1 / 1.6), whole: () => this.reset(), lasso: () => this.setLasso(!this.lassoing) };
      for (const button of this.root.querySelectorAll('[data-tool]')) button.addEventListener('click', tools[button.dataset.tool]);
      this.colours.addEventListener('change', () => this.paint(this.colours.value));
    }
    reset() { Object.assign(this.state.view, this.whole()); this.moved(); }
    setLasso(on) {
      this.lassoing = on;
      this.lasso.setAttribute('aria-pressed', String(on));
      this.canvas.classList.toggle('lcl-map__cutting', on);
      this.redraw();
    }
    place(event) {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }
    wheel(event) {
      if (event.deltaY > 0 && this.state.view.zoom === 1) return;  // the page scrolls on
      event.preventDefault();
      this.point(-1);
      const lines = event.deltaMode === 1 ? 16 : 1;
      this.zoom(Math.exp(-clamp(event.deltaY * lines, -240, 240) / 300), ...this.place(event));
    }
    press(event) {
      if (event.button) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.place(event));
      this.point(-1);
      if (this.pointers.size === 1) {
        this.began = this.place(event);
        this.dragged = false;
        this.path = this.lassoing || event.shiftKey ? [this.began] : null;
      } else {
        this.path = null;
        this.dragged = true;
      }
    }
    move(event) {
      const to = this.place(event), from = this.pointers.get(event.pointerId);
      if (!from) {
        if (event.pointerType !== 'touch') this.point(this.nearest(...to));
        return;
      }
      if (this.pointers.size === 2) { this.pinch(event.pointerId, to); return; }
      this.dragged ||= Math.hypot(to[0] - this.began[0], to[1] - this.began[1]) > TAP_PX;
      this.pointers.set(event.pointerId, to);
      if (this.path) { this.path.push(to); this.redraw(); }
      else if (this.dragged) this.pan(to[0] - from[0], to[1] - from[1]);
    }
    pinch(id, to) {
      const [other] = [...this.pointers].filter(([each]) => each !== id).map(([, place]) => place);
      const from = this.pointers.get(id), distance = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
      this.pointers.set(id, to);
      const middle = [(to[0] + other[0]) / 2, (to[1] + other[1]) / 2];
      this.zoom(distance(to) / distance(from), ...middle);
      this.pan((to[0] - from[0]) / 2, (to[1] - from[1]) / 2);
    }
    release(event, done) {
      if (!this.pointers.delete(event.pointerId) || this.pointers.size) return;
      const path = this.path;
      this.path = null;
      if (done && !this.dragged) this.open(this.nearest(...this.place(event)));
      else if (done && path && path.length > 2) {
        const polygon = path.map((place) => this.plane(...place));
        this.choose(this.within((x, y) => inside(polygon, x, y)));
      }
      this.redraw();
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      const keys = {
        Enter: () => { this.byKey = true; this.open(this.state.current); }, ' ': () => this.toggle(), '+': () => this.zoom(1.6), '=': () => this.zoom(1.6),
        '-': () => this.zoom(1 / 1.6), 0: () => this.reset(), a: () => this.chooseVisible(), PageDown: () => this.step(1), PageUp: () => this.step(-1), Escape: () => this.clear(event),
      };
      const [x, y] = arrows[event.key] ?? [];
      if (x !== undefined && event.shiftKey) this.pan(-x * PAN_STEP, y * PAN_STEP);
      else if (x !== undefined) this.go(this.beside(x, y));
      else if (keys[event.key]) keys[event.key]();
      else return;
      if (event.key !== 'Escape') event.preventDefault();
    }
    // The nearest image in a direction: within 45° of it, those aside count as further away.
    beside(dx, dy) {
      const { points } = this.data, { current, view } = this.state;
      if (current < 0 || !this.shows(current)) return this.data.grid(view.x, view.y, 4, (index) => this.shows(index));
      const x = points[2 * current], y = points[2 * current + 1];
      let best = -1, least = Infinity;
      for (let index = 0; index < this.data.count; index++) {
        const along = (points[2 * index] - x) * dx + (points[2 * index + 1] - y) * dy;
        const aside = Math.abs((points[2 * index] - x) * dy - (points[2 * index + 1] - y) * dx);
        if (along <= 0 || aside > along || !this.shows(index)) continue;
        if (along + 2 * aside < least) { least = along + 2 * aside; best = index; }
      }
      return best;
    }
    // One after the other: images that lie on one point are reached, too.
    step(by) {
      const { count } = this.data;
      let index = this.state.current < 0 && by < 0 ? 0 : this.state.current;
      for (let tried = 0; tried < count; tried++) {
        index = (index + by + count) % count;
        if (this.shows(index)) { this.go(index); return; }
      }
    }
    toggle() {
      const { current } = this.state, chosen = new Set(this.state.chosen ?? []);
      if (current < 0) return;
      if (!chosen.delete(current)) chosen.add(current);
      this.choose(chosen);
    }
    clear(event) {
      const had = this.state.chosen || this.path || this.lassoing || this.only !== null;
      if (!had) { this.state.current = -1; this.point(-1); return; }  // the page closes the details
      event.stopPropagation();
      this.path = null;
      this.setLasso(false);
      this.bringOut(null);
      this.choose(new Set());
    }
  }

  const maps = new Set(), mounted = new WeakSet();
  async function mount(drawn) {
    const root = mounted.has(drawn) ? drawn.cloneNode(true) : drawn;  // nothing listens to the canvas of the new one yet
    if (root !== drawn) drawn.replaceWith(root);
    mounted.add(root);
    const skeleton = root.cloneNode(true);
    root.dataset.mounted = 'yes';
    try {
      const data = await load(root.dataset.source);
      if (root.isConnected) maps.add(new CollectionMap(root, data));
    } catch (error) {
      const again = make('button', { type: 'button', textContent: 'Try again' });
      again.addEventListener('click', () => root.replaceWith(skeleton));  // it is mounted as any other
      const words = make('p', { textContent: `${error.message} ` }, again);
      const box = make('div', { className: 'lcl-problem' }, make('strong', { textContent: 'The map cannot be shown' }), words);
      box.setAttribute('role', 'alert');
      root.querySelector('.lcl-map__main').replaceChildren(box);
    }
  }
  function look() {
    for (const map of maps) if (map.root.isConnected) map.follow(); else maps.delete(map);
    document.querySelectorAll('.lcl-map:not([data-source=""], [data-mounted])').forEach(mount);
  }
  // Details were opened or closed: who clicked stays on the map.
  window.lclMap = {
    focus() {
      const map = [...maps].find(({ root }) => root.isConnected), opened = document.querySelector('#map-detail h2');
      if (!map) return;
      if (!opened) map.canvas.focus();
      else if (map.byKey || document.activeElement !== map.canvas) opened.focus();
      map.byKey = false;
    },
  };
  // Back and Forward to another part of the map.
  window.addEventListener('lcl-navigate', ({ detail }) => {
    if (detail !== 'map') return;
    maps.forEach((map) => {
      Object.assign(map.state.view, map.addressed() ?? map.whole());
      map.paint(new URLSearchParams(location.search).get('colour'));
      map.moved();
    });
  });
  // Another collection: its address, which this browser remembers as the one used last.
  document.addEventListener('change', ({ target }) => {
    if (!target.matches('.lcl-map__collection')) return;
    document.cookie = `lcl-collection=${new URLSearchParams(target.value).get('collection')}; path=/; max-age=31536000; samesite=strict`;
    const link = make('a', { href: target.value, hidden: true });
    document.body.append(link);
    link.click();
    link.remove();
  });
  document.addEventListener('click', ({ target }) => {
    document.querySelectorAll('.lcl-map__bar details[open]').forEach((more) => more.contains(target) || more.removeAttribute('open'));
  });
  function start() {
    let due = false;
    new MutationObserver(() => {
      if (due) return;
      due = true;
      setTimeout(() => { due = false; look(); }, 0);
    }).observe(document.body, { subtree: true, childList: true });
    new MutationObserver(() => maps.forEach((map) => map.redraw())).observe(document.body, { attributes: true, attributeFilter: ['class'] });
    look();
  }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
  else start();
})();
