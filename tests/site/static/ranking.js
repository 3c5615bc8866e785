/**
 * The order of what the search finds; Sphinx's own takes any page with the word in a heading for as
 * good as any other. First what is about it (a page by its title, a section by its heading, a name
 * that was typed in full), then pages that mention it, then names that only contain it. Among
 * equals, the chapters come first, in their order, and texts about the project last.
 */
var Scorer = {
  objNameMatch: 11, objPartialMatch: 6, objPrio: {}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,

  score([page, title, anchor, description, score, file, kind]) {
    const asked = new URLSearchParams(location.search).get('q').trim().toLowerCase();
    const number = page.match(/^\d\d(?=_)/), chapter = number ? 9 - Number(number[0]) / 8 : 3;
    const early = /^(api|results|data)\/|^[A-Z]+$/.test(page) ? 0 : chapter;
    if (kind === 'title') return 40 + score + early;
    if (kind === 'object') return score >= this.objNameMatch ? 45 : score;
    if (kind === 'index') return 0;  // each is an object, too
    const about = title.toLowerCase().includes(asked) && !page.startsWith('api/');
    return (about ? 60 : 2 * score) + early;
  },
};
