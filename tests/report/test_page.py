"""The page: whole, safe, in need of nothing else; and the files beside it."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from made_up import FITTED, LARGE, TWO_BY_TWO, fit_some, made_up_comparison

from pyro_vae.report.page import to_html, to_latex, to_markdown, write_report

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Elements of a page in their order, each as its tag, its attributes and the tags that it stands in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self._open)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((tuple(self._open), data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def words(self, *inside: str) -> str:
        return " ".join(text for place, text in self.texts if set(inside) <= set(place))


@pytest.fixture(scope="module")
def fitted_html(tmp_path_factory):
    """Of two configurations of two seeds, one cell of which failed; the others have networks."""
    comparison = made_up_comparison(tmp_path_factory.mktemp("report"), FITTED, failed=[1])
    fit_some(comparison, [0, 2])
    return to_html(comparison)


def test_the_page_needs_nothing_but_itself(fitted_html):
    assert "//" not in re.sub(r"^ *// .*$|data:image/png;base64,[^\"]*", "", fitted_html, flags=re.MULTILINE)
    page = Page(fitted_html)
    targets = [a[name] for _, a, _ in page.elements for name in ("href", "src", "action", "data") if name in a]
    assert {target[:5] if target.startswith("data:") else target[:1] for target in targets} == {"#", "data:"}
    assert "url(" not in fitted_html.replace("url(#", "")
    assert "@import" not in fitted_html


def test_links_inside_the_page_find_something_and_identifiers_are_unique(fitted_html):
    page = Page(fitted_html)
    ids = Counter(attributes["id"] for _, attributes, _ in page.elements if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {a["href"][1:] for _, a, _ in page.elements if a.get("href", "").startswith("#")}
    labels = {a["aria-labelledby"] for _, a, _ in page.elements if "aria-labelledby" in a}
    assert targets | labels | set(re.findall(r"url\(#([^)]+)\)", fitted_html)) <= set(ids)


def test_the_page_says_what_each_part_of_it_is(fitted_html):
    page = Page(fitted_html)
    assert page.all("html") == [{"lang": "en"}]
    headings = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    tables, captions = page.all("table"), page.all("caption")
    assert len(tables) == len(captions) == 7  # The main table, each cell, five rankings.
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert all(image.get("alt") for image in page.all("img"))
    figures = [svg for svg in page.all("svg") if svg.get("class") != "whisker"]
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in figures)
    assert len(page.all("figure")) == len(page.all("figcaption")) == len(figures) + len(page.all("img"))


def test_what_was_compared_is_said_first(fitted_html):
    page = Page(fitted_html)
    assert page.words("h1") == "Comparison by guide"
    header = page.words("header")
    assert "3 of 4 cells finished: 2 configurations, 2 seeds (0, 1); measured on 20 test images of mnist-5k." in header
    assert "Best log p(x):" in header
    assert "1 of 2 configurations has one finished seed" in page.words("main", "section", "ul")


def test_failed_cells_are_listed_with_the_first_line_of_their_error(fitted_html):
    assert Page(fitted_html).words("samp") == "ValueError: no <b>luck</b>"
    assert "Traceback" not in fitted_html


def test_images_are_drawn_of_each_configuration(fitted_html):
    page = Page(fitted_html)
    assert len(page.all("img")) == 6
    assert "All configurations: the first finished seed of each." in page.words("section", "p")
    assert "Not drawn" not in fitted_html


def test_the_page_says_how_to_do_it_again(fitted_html, tmp_path):
    commands = Page(fitted_html).words("pre", "code")
    assert "pyro-vae compare grid.yaml --out again" in commands
    for result in made_up_comparison(tmp_path, FITTED).results:
        name = result.cell.hash
        assert f"pyro-vae fit --config cells/{name}/config.yaml --out again/{name}" in commands
    facts = Page(fitted_html).words("section", "dl", "dd")
    for version in ("3.12.1", "2.9.0", "1.9.2", "x86_64"):
        assert version in facts


def test_what_cannot_be_drawn_is_named_with_the_reason(tmp_path):
    page = Page(to_html(made_up_comparison(tmp_path, TWO_BY_TWO)))
    assert page.all("img") == []
    failures = [text for place, text in page.texts if "article" in place and text.startswith("Not drawn")]
    assert len(failures) == 2
    assert all("RunError: no run folder" in failure for failure in failures)


@pytest.mark.parametrize(("max_drawn", "words"), [
    (1, "1 of 2 configurations, those with the best log p(x): the first finished seed of each."),
    (0, "None was asked for."),
])  # fmt: skip
def test_how_many_are_drawn_is_the_callers_to_say(tmp_path, max_drawn, words):
    html = to_html(made_up_comparison(tmp_path, TWO_BY_TWO), max_drawn)
    assert len(Page(html).all("article")) == max_drawn
    assert words in html


def test_a_negative_number_of_drawings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_drawn must be at least 0"):
        write_report(made_up_comparison(tmp_path, TWO_BY_TWO), max_drawn=-1)


def test_names_from_users_are_text(tmp_path):
    out = tmp_path / "<img src=x onerror=alert(1)>"
    out.mkdir()
    names = ["/</script><script>alert(1)</script>", '/"><svg onload=alert(1)>', "/{{ 7 * 7 }}"]
    html = to_html(made_up_comparison(out, {"grid": {"data": names}}, failed=[2]))
    page = Page(html)
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
    assert page.all("img") == []
    rows = [a["data-value"] for tag, a, _ in page.elements if tag == "th" and "data-value" in a]
    assert set(rows) == {f"data {name}" for name in names}
    assert page.words("p").startswith(out.name)


def test_columns_are_sorted_by_numbers(tmp_path):
    page = Page(to_html(made_up_comparison(tmp_path, TWO_BY_TWO, failed=[0, 1])))
    heads = [a for tag, a, place in page.elements if tag == "th" and "thead" in place and "aria-sort" in a]
    assert Counter(head["aria-sort"] for head in heads)["descending"] == 1
    buttons = [a for tag, a, place in page.elements if tag == "button" and place[-1] == "th"]
    assert len(buttons) == len(heads)
    values = [a["data-value"] for a in page.all("td") if "data-value" in a]
    assert "" in values
    assert all(float(value) == float(value) for value in values if value)


def test_one_cell_is_a_comparison_without_a_ranking(tmp_path):
    page = Page(to_html(made_up_comparison(tmp_path, {"cells": [{"seed": 0}]})))
    assert page.words("h1") == "Comparison"
    assert "Not ranked: a ranking needs two configurations" in page.words("details", "p")


def test_no_finished_cell_is_a_page_that_says_so(tmp_path):
    page = Page(to_html(made_up_comparison(tmp_path, TWO_BY_TWO, failed=range(4))))
    assert "0 of 4 cells finished: 2 configurations" in page.words("header")
    assert "there is nothing to show" in page.words("section")
    assert page.all("svg") == page.all("table") == []


def test_a_large_comparison_has_a_page_of_reasonable_size(tmp_path):
    comparison = made_up_comparison(tmp_path, LARGE, failed=[3], num_images=500, num_gaps=50, epochs=300)
    html = to_html(comparison)
    # 0.7 MB as measured; images of 28 x 28 would add 0.4 MB.
    assert len(html) < 2e6
    page = Page(html)
    assert len([a for a in page.all("figure") if a.get("id")]) == 6
    assert "grey: 19 more, 9 to 27 of the main table" in page.words("ul", "li")


def test_the_files_are_written_into_the_comparisons_folder(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    path = write_report(comparison)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    write_report(comparison, latex=True, markdown=True)
    assert (tmp_path / "report.tex").read_text(encoding="utf-8") == to_latex(comparison)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == to_markdown(comparison)
