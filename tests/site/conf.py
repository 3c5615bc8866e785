"""Sphinx's settings for the website. `build.py` calls Sphinx and says where the pages lie."""

from pathlib import Path

from docutils import nodes

project = "rar_nb"
author = "the rar_nb authors"
copyright = "2026, the rar_nb authors"
html_title = "rar_nb"
language = "en"
extensions = ["myst_nb"]
exclude_patterns = ["_static/**"]
smartquotes = False

nb_execution_mode = "off"  # what a reader sees is what is saved
nb_merge_streams = True
nb_render_markdown_format = "myst"  # the default knows no tables
nb_number_source_lines = False
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"

myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
myst_heading_slug_func = "tests.site.text.slug"
myst_disable_syntax = ["myst_line_comment", "myst_block_break"]  # notebooks mean what they say
myst_dmath_double_inline = True

python_use_unqualified_type_names = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 72
toc_object_entries_show_parents = "hide"
add_module_names = False

# Everything that a page needs comes from the site itself.
mathjax_path = "vendor/mathjax/tex-svg.js"
mathjax3_config = {
    "options": {"enableMenu": False},  # its menu would load parts that are not here
    "svg": {"fontCache": "global"},
}

html_theme = "sphinx_book_theme"
html_css_files = ["site.css"]
html_js_files = [("site.js", {"type": "module"})]
html_search_scorer = str(Path(__file__).parent / "static" / "ranking.js")
html_favicon = "static/favicon.svg"
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_theme_options = {
    "navbar_persistent": [],
    "use_download_button": False,
    "use_source_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": False,
    "max_navbar_depth": 2,
    "show_navbar_depth": 1,
    "logo": {"text": "rar_nb"},
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
pages_with_panels: list[str] = []  # given by build.py


def add_scripts(app, pagename, templatename, context, doctree):
    """The script that wakes the panels, on pages that have one; what the search says of a page."""
    if pagename in app.config.pages_with_panels:
        app.add_js_file("js/host.js", type="module")
    if pagename == "search":
        app.add_js_file("search.js", type="module")


def dashes(app, doctree):
    """In lists of parameters an en dash, where Sphinx writes two hyphens for others to replace."""
    for entry in doctree.findall(nodes.field_list):
        for text in entry.findall(nodes.Text):
            if text == " -- ":
                text.parent.replace(text, nodes.Text(" – "))


def formulas(app, doctree):
    """Formulas as they are in the notebook: Sphinx puts those of several lines into an environment
    in which MathJax refuses a number."""
    for formula in doctree.findall(nodes.math_block):
        if not formula.get("no-wrap", formula.get("nowrap")):
            formula[:] = [nodes.Text(f"\\[{formula.astext()}\\]")]
            formula["no-wrap"] = True


def setup(app):
    app.add_config_value("pages_with_panels", [], "html")
    app.connect("html-page-context", add_scripts)
    app.connect("doctree-read", dashes)
    app.connect("doctree-read", formulas)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
