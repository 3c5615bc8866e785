/** What scrolls sideways can be scrolled by keyboard, too: it gets the focus. */
const scrolling = 'pre, div.math, mjx-container, dt.sig, .pst-scrollable-table-container, table';

function reach() {
  for (const box of document.querySelectorAll(scrolling)) {
    const scrolls = box.scrollWidth > box.clientWidth + 1
      && getComputedStyle(box).overflowX !== 'visible';
    if (scrolls) box.tabIndex = 0;
    else if (box.tabIndex === 0) box.removeAttribute('tabindex');
  }
}

addEventListener('load', async () => {
  await window.MathJax?.startup?.promise;
  reach();
  addEventListener('resize', reach);
});
