/**
 * What the search says of a page that it found. Sphinx's own text begins 120 characters before a
 * word, whatever stands there: menus, code, TeX. This one begins with a sentence.
 */
const NO_PROSE = '.cell_output, .rar-live, .in-the-library, .defined-in, .needs-python, .ways-in';
const LENGTH = 220;  // characters of a summary

/** The paragraphs of a page or of one of its sections. */
function paragraphs(page, anchor) {
  const whole = new DOMParser().parseFromString(page, 'text/html');
  const part = anchor ? whole.getElementById(decodeURIComponent(anchor.slice(1)))
    : whole.querySelector('article');
  for (const formula of part?.querySelectorAll('.math') ?? []) {
    const tex = formula.textContent.replace(/^\\[([]|\\[)\]]$/g, '');
    formula.textContent = /[\\_^{]/.test(tex) ? '…' : tex;
  }
  return [...part?.querySelectorAll('p') ?? []].filter(p => !p.closest(NO_PROSE))
    .map(p => p.textContent.replace(/\s+/g, ' ').trim()).filter(text => text.split(' ').length > 4);
}

/** A text from the sentence on in which a place lies, or from a word shortly before it; the text
 * from its start on, if the place is nowhere, at infinity. */
function excerpt(text, place) {
  if (place === Infinity) return excerpt(text, 0);
  const starts = [...text.matchAll(/(?<=[.?!] )\p{Lu}/gu)].map(match => match.index);
  let start = starts.findLast(at => at <= place) ?? 0;
  const late = place - start > LENGTH / 2;
  if (late) start = text.indexOf(' ', place - LENGTH / 2);
  const rest = text.slice(start).trim(), cut = rest.lastIndexOf(' ', LENGTH);
  const shown = rest.length <= LENGTH ? rest : `${rest.slice(0, cut)} …`;
  return late ? `… ${shown}` : shown;
}

/** A paragraph with most of the words, else the first of the page, from there on: an element. */
Search.makeSearchSummary = (page, words, anchor) => {
  const places = text => [...words].map(word => text.toLowerCase().indexOf(word))
    .filter(place => place >= 0);
  const texts = paragraphs(page, anchor);
  const [best] = [...texts].sort((a, b) => places(b).length - places(a).length);
  const summary = document.createElement('p');
  summary.className = 'context';
  if (best) summary.textContent = excerpt(best, Math.min(...places(best)));
  return summary;
};
