// Behaviour in the browser alone: colour scheme, refused events, end of a session, questions, details of an image,
// searches under way, drafts of forms, values on curves.
(() => {
  'use strict';
  const KEY = 'lcl-theme';
  const read = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const write = (value) => { try { localStorage.setItem(KEY, value); } catch { /* private window: not kept */ } };

  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  const apply = (theme) => document.body.classList.toggle('dark', theme === 'dark');

  // Gradio sets the class itself while it starts; the reader's own choice wins over it.
  function keepChoice() {
    const wanted = read();
    if (!wanted) return;
    const keep = () => document.body.classList.contains('dark') !== (wanted === 'dark') && apply(wanted);
    const watcher = new MutationObserver(keep);
    watcher.observe(document.body, { attributes: true, attributeFilter: ['class'] });
    setTimeout(() => watcher.disconnect(), 5000);
    document.addEventListener('click', () => watcher.disconnect(), { once: true, capture: true });
    keep();
  }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', keepChoice);
  else keepChoice();

  document.addEventListener('click', (event) => {
    if (event.target.closest('[data-lcl-theme]')) {
      const theme = document.body.classList.contains('dark') ? 'light' : 'dark';
      apply(theme);
      write(theme);
    }
    const copy = event.target.closest('[data-lcl-copy]');
    if (copy) copyCode(copy);
    const CHOICES = ['.lcl-card', '.lcl-examples a', '.lcl-samples :is(a, [data-pick])'];
    const kind = CHOICES.find((each) => event.target.closest(each));
    if (kind) {
      const card = event.target.closest(kind);
      document.querySelectorAll(`${kind}[aria-current]`).forEach((other) => other.removeAttribute('aria-current'));
      card.setAttribute('aria-current', 'true');
    }
  });

  // Gradio changes the elements that are there in place of replacing them. A new message, and another thing where there was
  // one, get an element of their own: its animation begins anew, and no image, scroll position or typed text is left over.
  new MutationObserver((changes) => {
    for (const { target, attributeName: name, oldValue } of changes) {
      const other = target.hasAttribute(name) && target.getAttribute(name) !== oldValue;
      if (other && target.isConnected) target.replaceWith(target.cloneNode(true));
    }
  }).observe(document.documentElement, { subtree: true, attributeFilter: ['data-at', 'data-key'], attributeOldValue: true });

  // The code beside a button into the clipboard; where the browser forbids that (no TLS), it is selected.
  async function copyCode(button) {
    const code = button.parentElement.querySelector('code');
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(code);
    }
  }

  // Questions before something is lost, and for a new name: the focus goes to the button that changes nothing, or to the
  // field, and after the answer back to what was pressed, else to the panel around it.
  const QUESTION = '[role="alertdialog"], .lcl-rename';
  const isOpen = (question) => question.isConnected && question.matches(QUESTION) && question.checkVisibility();
  const openQuestion = () => [...document.querySelectorAll(QUESTION)].find(isOpen);
  const keepButton = (question) => question.querySelector('[data-pick^="keep:"], [data-pick^="encoder:"]');
  let lastPressed = null;  // the last button outside of questions: itself, its value, and the panel around it
  let opener = null;       // the one that led to the question
  document.addEventListener('click', ({ target }) => {
    const element = target.closest('button, [data-pick]'), question = element?.closest(QUESTION);
    if (question) restoreFocus(question);
    else if (element) {
      const around = element.closest('.lcl-panel, [role="tabpanel"]');
      lastPressed = { element, pick: element.dataset.pick, around };
    }
  }, { capture: true });
  async function restoreFocus(question) {
    for (const begun = performance.now(); isOpen(question) && performance.now() - begun < LATE_MS;) await sleep(50);
    await sleep(50);  // the focus is lost with the next frame
    if (!opener || openQuestion() || document.activeElement !== document.body) return;
    const { element, pick, around } = opener;
    const drawnAgain = pick && document.querySelector(`[data-pick="${CSS.escape(pick)}"]`);
    const menu = drawnAgain?.closest('details')?.querySelector('summary');
    const next = [element, drawnAgain, menu, around].find((each) => each?.isConnected && each.checkVisibility());
    if (next && next === around && !around.hasAttribute('tabindex')) around.tabIndex = -1;
    next?.focus({ preventScroll: next === around });
  }
  window.lclQuestion = {
    focus() {
      requestAnimationFrame(() => setTimeout(() => {
        const question = openQuestion();
        if (!question) return;
        opener = lastPressed;
        (question.querySelector('input') ?? keepButton(question)).focus();
      }, 30));
    },
  };

  // Escape changes nothing of what is asked, else closes the details of an image, unless the focus is in an input or an open list.
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    const question = openQuestion();
    if (question && (question.contains(event.target) || !event.target.closest('input, textarea, [role="listbox"]'))) {
      keepButton(question).click();
      return;
    }
    if (event.target.closest('input, textarea, [role="listbox"]')) return;
    [...document.querySelectorAll('.lcl-detail [data-close]')].find((button) => button.checkVisibility())?.click();
  });

  // Gradio's menus look at every key a moment late, and by it open again after Tab has left and closed them.
  window.addEventListener('keydown', (event) => {
    if (event.key === 'Tab' && event.target.matches?.('.wrap input.border-none')) event.stopPropagation();
  }, { capture: true });

  // Calls to the service under way: one that hangs is said beside the title.
  const SLOW_MS = 3000, LATE_MS = 20_000;
  const calls = new Set();
  let clocks = null;  // ids of the components whose calls nobody has asked for
  function isOfClock(body) {
    clocks ??= new Set(window.gradio_config.components.filter(({ type }) => type === 'timer').map(({ id }) => id));
    return clocks.has(JSON.parse(body ?? '{}').trigger_id);
  }
  function watch() {
    const slow = [...calls].some((call) => performance.now() - call.begun > SLOW_MS);
    document.querySelector('#service')?.classList.toggle('lcl-slow', slow);
    const pill = document.querySelector('#service-slow p');
    if (pill) pill.hidden = !slow;
  }
  setInterval(watch, 500);

  // An ended session: the next request reloads the page, which leads to signing in and back to this address.
  const ask = window.fetch;
  window.fetch = async (...question) => {
    const asks = String(question[0]?.url ?? question[0]).includes('/run/predict');
    const call = asks ? { begun: performance.now(), byClock: isOfClock(question[1]?.body) } : null;
    if (call) calls.add(call);
    try {
      const answer = await ask(...question);
      const isEnded = answer.status === 401 && answer.headers.has('x-lcl-sign-in');
      if (isEnded) location.reload();
      if (!asks || answer.ok) return answer;
      const refusal = await withMessage(answer);
      if (!isEnded && !call.byClock) showRefusal(refusal.clone());  // a clock soon asks again
      return refusal;
    } finally {
      calls.delete(call);
    }
  };
  // Gradio fails at an error that is no text. That of the gateway is an object with a code and a message.
  async function withMessage(answer) {
    const { error } = await answer.clone().json().catch(() => ({})) ?? {};
    if (typeof error?.message !== 'string') return answer;
    const headers = { 'content-type': 'application/json' };
    return new Response(JSON.stringify({ error: error.message, code: error.code }), { status: answer.status, headers });
  }

  // Gradio shows no message of an event that was not queued, and none of the page's is.
  async function showRefusal(answer) {
    const { error } = await answer.json().catch(() => ({})) ?? {};
    const words = typeof error === 'string' ? error : `The page does not answer at the moment (${answer.status}). Try again.`;
    document.querySelector('#refusal')?.remove();
    const box = Object.assign(document.createElement('div'), { id: 'refusal', className: 'lcl-problem lcl-toast' });
    box.setAttribute('role', 'alert');
    const title = Object.assign(document.createElement('strong'), { textContent: 'Not possible' });
    box.append(title, Object.assign(document.createElement('p'), { textContent: words }));
    (document.querySelector('.gradio-container') ?? document.body).append(box);
  }

  // Searches under way: after a moment skeletons and a line say so, and whether the service is loading an encoder. Gradio
  // marks a pane as pending only until the first of several events ends.
  let searches = 0, overtaken = 0, turn = 0, numbered = 0;
  const say = (words) => {
    const line = document.querySelector('#search-status [role=status]');
    if (line && line.textContent !== words) line.textContent = words;
  };
  const show = (state) => document.querySelector('#tab-search')?.setAttribute('data-search', state);
  const loadsEncoder = async () => {
    try { return (await (await fetch('loading')).json()).encoders > 0; } catch { return false; }
  };
  async function explain(mine) {
    let loading = false, asking = false;
    for (await sleep(150); searches > 0 && mine === turn; await sleep(500)) {
      show('busy');
      say(loading ? 'Loading the encoder …' : 'Searching …');
      if (asking) continue;
      asking = true;
      loadsEncoder().then((answer) => { [loading, asking] = [answer, false]; });
    }
  }
  // What is under way counts no more: the newest answer is there.
  function forget() {
    overtaken += searches;
    searches = 0;
    turn += 1;
    show('idle');
    say('');
  }
  // Gradio's own sign of pending events stands beside the container, and a reload of the pane may draw the same again.
  const shownResults = () => document.querySelector('#search-results .html-container')?.innerHTML;
  let before;           // results when the searches under way began
  const arrival = new MutationObserver(() => searches > 0 && shownResults() !== before && forget());
  window.lclSearch = {
    number: () => numbered += 1,
    begin() {
      const pane = document.querySelector('#search-results');
      document.querySelector('#tab-search').classList.remove('lcl-is-editing');
      if (pane) arrival.observe(pane, { childList: true, subtree: true });
      searches += 1;
      if (searches === 1) {
        before = shownResults();
        explain(turn += 1);
      }
      return window.lclSearch.number();
    },
    end() {
      if (overtaken > 0) overtaken -= 1;
      else if (searches === 1) { forget(); overtaken = 0; }
      else searches -= 1;
    },
  };
  // On a narrow screen the form is folded while there are results.
  document.addEventListener('click', ({ target }) => {
    if (target.closest('[data-edit]')) document.querySelector('#tab-search').classList.toggle('lcl-is-editing');
  });

  // What a tab could not show when it was opened: it is opened again, as by Back and Forward.
  document.addEventListener('click', (event) => {
    const tab = event.target.closest('[data-reopen]')?.closest('[role="tabpanel"]');
    if (tab) window.dispatchEvent(new CustomEvent('lcl-navigate', { detail: tab.id.replace(/^tab-/, '') }));
  });

  // Forms that were filled in and not submitted, by address: they survive a reload of the page.
  const DRAFTS = 'lcl-drafts';
  const drafts = () => { try { return JSON.parse(sessionStorage.getItem(DRAFTS)) ?? {}; } catch { return {}; } };
  const keep = (all) => { try { sessionStorage.setItem(DRAFTS, JSON.stringify(all)); } catch { /* not kept */ } };
  let drafted = null;  // the address of the newest
  window.lclDraft = {
    save(values) {
      drafted = location.search;
      keep({ ...drafts(), [drafted]: values });
    },
    drop() {
      const { [drafted]: _, ...others } = drafts();
      keep(others);
    },
    restore: () => JSON.stringify(drafts()[location.search] ?? null),
  };

  // What was unfolded stays so when it is drawn again; a menu closes when something else is pressed.
  const unfolded = new WeakSet();
  document.addEventListener('click', ({ target }) => {
    const fold = target.closest('summary')?.parentElement;
    if (fold) unfolded[fold.open ? 'delete' : 'add'](fold);
    for (const menu of document.querySelectorAll('details:is(.lcl-run__menu, .lcl-menu)[open]')) {
      if (menu === fold || menu.contains(target.closest('[aria-pressed]'))) continue;
      unfolded.delete(menu);
      menu.open = false;
    }
  }, { capture: true });
  new MutationObserver((changes) => {
    for (const { target } of changes) if (unfolded.has(target) && !target.open) target.open = true;
  }).observe(document.documentElement, { subtree: true, attributeFilter: ['open'] });

  // Tables of figures are sorted by a column; the text beside a button is saved as a file; words are found in a log.
  document.addEventListener('click', ({ target }) => {
    const head = target.closest('.lcl-table--figures th'), save = target.closest('[data-save]');
    if (head) {
      const rows = [...head.closest('table').tBodies[0].rows], column = head.cellIndex;
      const order = head.ariaSort === 'descending' ? 'ascending' : 'descending', sign = order === 'ascending' ? 1 : -1;
      const key = ({ cells }) => cells[column].dataset.sort ?? cells[column].textContent;
      rows.sort((a, b) => sign * key(a).localeCompare(key(b), 'en', { numeric: true }) || 0);
      for (const other of head.parentElement.cells) other.ariaSort = other === head ? order : null;
      head.closest('table').tBodies[0].append(...rows);
    }
    if (!save) return;
    const text = save.closest('details').querySelector('pre').textContent;
    const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(new Blob([text])), download: save.dataset.save });
    link.click();
    URL.revokeObjectURL(link.href);
  });
  document.addEventListener('input', ({ target }) => {
    if (!target.matches('[data-find]')) return;
    const log = target.closest('details').querySelector('pre'), words = target.value.toLowerCase();
    const text = log.firstChild.data.toLowerCase(), found = [];
    for (let at = text.indexOf(words); words && at >= 0; at = text.indexOf(words, at + words.length)) {
      const range = new Range();
      range.setStart(log.firstChild, at);
      range.setEnd(log.firstChild, at + words.length);
      found.push(range);
    }
    CSS.highlights.set('lcl-found', new Highlight(...found));
    const last = found.at(-1)?.getBoundingClientRect();
    if (last) log.scrollTop += last.top - log.getBoundingClientRect().top - log.clientHeight / 2;
  });

  // Curves: the value nearest to the cursor.
  document.addEventListener('pointermove', (event) => {
    const plot = event.target.closest?.('.lcl-plot[data-points], .lcl-plot[data-series]');
    document.querySelectorAll('.lcl-cursor').forEach((cursor) => cursor.parentElement !== plot && cursor.remove());
    if (!plot) return;
    const box = plot.getBoundingClientRect();
    const [low, high, bottom, top] = plot.dataset.frame.split(',').map(Number);
    const step = low + (high - low) * (event.clientX - box.left) / box.width;
    const nearest = (points) => points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
    const reaches = ({ points }) => step <= points.at(-1)[0] + (high - low) / 100;
    const series = plot.dataset.series && JSON.parse(plot.dataset.series);
    const [x, y] = series ? [Math.round(Math.max(low, step)), top] : nearest(plot.dataset.points.split(';').map((pair) => pair.split(',').map(Number)));
    const cursor = plot.querySelector('.lcl-cursor') ?? plot.appendChild(Object.assign(document.createElement('div'), { className: 'lcl-cursor' }));
    const left = (x - low) / (high - low);
    cursor.style.left = `${100 * left}%`;
    cursor.style.setProperty('--y', `${100 * (top - y) / (top - bottom)}%`);
    cursor.dataset.side = left > (series ? 0.45 : 0.6) ? 'left' : 'right';
    cursor.dataset.words = series
      ? [`${plot.dataset.over} ${x.toLocaleString('en')}`, ...series.filter(reaches).map(({ name, points }) => `${name}: ${nearest(points)[1]}`)].join('\n')
      : `step ${x}: ${y}`;
  });
})();
