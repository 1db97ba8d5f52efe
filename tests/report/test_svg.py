"""Figures as part of a page."""

import re
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from pyro_vae.report.svg import FOREGROUND, STYLE, to_svg


def small_figure(title: str = "title", colour: str = "#3b7dd8") -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3, 2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([1, 2, 3], [1, 3, 2], marker="o", color=colour)
        axes.axhline(2, color=FOREGROUND)
        axes.set_title(title)
    return figure


@pytest.fixture
def svg() -> str:
    return to_svg(small_figure(), "what is seen", "one")


def test_it_is_one_element_that_names_no_other_place(svg):
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert "//" not in svg
    assert "<style" not in svg


def test_its_width_is_left_to_the_page(svg):
    root = ElementTree.fromstring(svg)
    assert set(root.attrib) == {"viewBox", "role", "aria-label"}
    assert root.get("aria-label") == "what is seen"
    assert root.get("viewBox").split() == ["0", "0", "216", "144"]


def test_lines_and_letters_have_the_pages_colour_and_others_their_own(svg):
    assert FOREGROUND not in svg
    assert "#3b7dd8" in svg
    root = ElementTree.fromstring(svg)
    assert {re.search(r"fill: (\S+)", text.get("style"))[1] for text in root.iter("text")} == {"currentColor"}
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert colours == {"none", "currentColor", "#3b7dd8"}


def test_letters_are_text_in_the_pages_font(svg):
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert "title" in texts
    assert "font-family" not in svg
    assert "DejaVu" not in svg


def test_identifiers_of_two_figures_differ_and_each_finds_its_own():
    one, two = (to_svg(small_figure(), "", prefix) for prefix in ("one", "two"))
    both = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, two)]
    assert all(both)
    assert not both[0] & both[1]
    for svg, ids in zip((one, two), both, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) == ids


def test_names_are_neither_markup_nor_mathematics():
    svg = to_svg(small_figure(title="<script>alert(1)</script> & $a_1$"), '"quoted" <b>', "one")
    assert "<script" not in svg
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert "<script>alert(1)</script> & $a_1$" in texts
    assert ElementTree.fromstring(svg).get("aria-label") == '"quoted" <b>'


def test_the_users_style_of_figures_is_left_alone():
    before = dict(matplotlib.rcParams)
    to_svg(small_figure(), "", "one")
    assert dict(matplotlib.rcParams) == before
