// The address bar follows what the open tab shows, and Back, Forward and links inside the page lead to it again.
(() => {
  'use strict';
  const { owners, options, first } = window.lclAddress;
  const TABS = '.lcl-tabs .tab-container[role="tablist"] > [role="tab"]';
  const AGAIN_MS = 5000;
  let last = null;      // the view when it was last compared, as canonical address
  let target = null;    // address that is being opened: until the view is there, nothing is written
  let gesture = false;  // the reader did something that no entry of the history has come of yet

  const query = (parameters) => {
    const words = new URLSearchParams(parameters).toString();
    return words ? `?${words}` : '';
  };
  function tabOf(parameters) {
    return parameters.get('tab') ?? owners[Object.keys(owners).find((name) => parameters.has(name))] ?? first;
  }
  // The tab of the address is the open one from the start: this runs before Gradio draws what it is configured to.
  const { components } = window.gradio_config, bar = components.find(({ type }) => type === 'tabs');
  const asked = tabOf(new URLSearchParams(location.search));
  if (components.some(({ type, props }) => type === 'tabitem' && props.id === asked)) bar.props.selected = asked;
  // One spelling of each address, for comparison.
  function canonical(search) {
    const parameters = new URLSearchParams(search);
    parameters.set('tab', tabOf(parameters));
    return query([...parameters].sort());
  }

  // Address and title of what the open tab shows; null while the page starts.
  function view() {
    const button = document.querySelector(`${TABS}[aria-selected="true"]`);
    if (!button) return null;
    const tab = button.id.replace(/^tab-|-button$/g, '');
    const marks = [...document.querySelectorAll(`#tab-${tab} [data-view]:not(.prose *)`)];
    const own = tab === first ? {} : { tab };
    const title = marks.map((mark) => mark.dataset.title).filter(Boolean).at(-1);
    return {
      address: query(Object.assign(own, ...marks.map((mark) => JSON.parse(mark.dataset.view)))),
      title: [title, button.textContent.trim(), 'LCL'].filter(Boolean).join(' – '),
    };
  }

  function isOption(before, after) {
    const [old, now] = [before, after].map((search) => new URLSearchParams(search));
    const changed = [...new Set([...old.keys(), ...now.keys()])].filter((name) => old.get(name) !== now.get(name));
    return changed.every((name) => options.includes(name));
  }

  function follow() {
    const now = view();
    if (!now) return;
    if (document.title !== now.title) document.title = now.title;
    if (tabOf(new URLSearchParams(last ?? '')) !== tabOf(new URLSearchParams(now.address)) || last === null) {
      document.querySelector(`${TABS}[aria-selected="true"]`).scrollIntoView({ block: 'nearest' });
    }
    const shown = canonical(now.address), before = last;
    last = shown;
    if (target !== null) {
      if (shown === target) target = null;
      return;
    }
    if (shown === before || shown === canonical(location.search)) return;
    const adds = gesture && !isOption(before, shown);
    history[adds ? 'pushState' : 'replaceState']({}, '', now.address || location.pathname);
    if (adds) gesture = false;
  }

  // Show what the address bar says.
  function open() {
    target = canonical(location.search);
    gesture = false;
    const tab = tabOf(new URLSearchParams(location.search));
    const button = document.getElementById(`tab-${tab}-button`);
    const other = button && button.getAttribute('aria-selected') !== 'true';
    window.lclAddress.changedTab = Boolean(other);  // then the tab's own events open the address, too
    if (other) button.click();
    const wanted = target;
    const ask = () => {
      follow();
      if (target === wanted) window.dispatchEvent(new CustomEvent('lcl-navigate', { detail: tab }));
    };
    setTimeout(ask, 0);
    setTimeout(ask, AGAIN_MS);  // Gradio may drop an event that comes as another of its kind ends
  }
  window.addEventListener('popstate', open);

  const acts = (event) => {
    if (!event.isTrusted || event.altKey || event.metaKey) return;
    if (target !== null) { follow(); target = null; }
    gesture = true;
  };
  document.addEventListener('pointerdown', acts, true);
  document.addEventListener('keydown', acts, true);
  // The wheel zooms a map; elsewhere it scrolls, which changes no view.
  document.addEventListener('wheel', (event) => event.target.closest?.('canvas') && acts(event), { capture: true, passive: true });

  // Links inside the page load nothing anew.
  document.addEventListener('click', (event) => {
    const link = event.target.closest?.('a[href^="?"]');
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    if (canonical(link.search) !== canonical(location.search)) history.pushState({}, '', link.search || location.pathname);
    open();
  });

  // A form whose fields are the parameters of an address.
  document.addEventListener('submit', (event) => {
    if (!event.target.matches('form[data-address]') || event.target.closest('.prose')) return;
    event.preventDefault();
    history.pushState({}, '', query(new FormData(event.target)));
    open();
  });

  let due = false;
  const soon = () => {
    if (due) return;
    due = true;
    setTimeout(() => { due = false; follow(); }, 0);
  };
  function start() {
    target = canonical(location.search);
    const watched = { subtree: true, childList: true, attributes: true, attributeFilter: ['aria-selected', 'data-view', 'data-title'] };
    new MutationObserver(soon).observe(document.body, watched);
    follow();
  }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
  else start();
})();
