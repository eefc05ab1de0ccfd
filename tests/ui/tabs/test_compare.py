"""The Compare tab's handlers against a service that answers from memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from ui.common import PageSelection
from ui.tabs.compare import IMAGE, INVITATION, WORDS, CompareTab, draw_figures

OLD, NEW = ({"id": f"enc_{name}", "name": name, "hash": name[0] * 64} for name in ("old", "new"))
COLLECTIONS = [
    {"id": f"col_{each['name']}", "name": each["name"], "encoder_id": each["id"], "dataset": "sample"}
    for each in (NEW, OLD)
]
QUESTION = {"task": "retrieval", "split": "val", "variant": "v", "transfer": "zero_shot"}


def turn() -> PageSelection[int]:
    """Of a page that has asked for nothing before."""
    return PageSelection(0)


def request_of(**parameters: str) -> Any:
    return SimpleNamespace(query_params={"tab": "compare", **parameters}, cookies={})


def hits(*names: str) -> dict[str, Any]:
    return {"hits": [{"id": name, "score": 0.5, "caption": name} for name in names], "took_ms": 1}


@pytest.fixture
def answers() -> dict[str, Any]:
    found = {"col_old": hits("a", "b", "c"), "col_new": hits("c", "d", "b")}
    search = lambda collection, **_: found[collection]  # noqa: E731
    return {"encoders": [NEW, OLD], "encoder_figures": [], "collections": COLLECTIONS, "search": search}


def test_what_both_find_is_marked_with_its_place_on_the_other_side(service: Any, answers: dict[str, Any]) -> None:
    client = service(**answers)
    drawn = CompareTab(client).search(turn(), "enc_old", "enc_new", "sample", WORDS, " ant ", None)
    assert client.arguments_of("search") == [{"k": 12, "text": "ant"}] * 2
    assert "<b>2 of 3</b> found by both for “ant”" in drawn
    assert drawn.count("lcl-card--both") == 4
    left, right = drawn.split('<section aria-label="new">')
    assert 'aria-label="c, place 3, place 1 of new. Ask both with this image"' in left
    assert 'aria-label="b, place 3, place 2 of old. Ask both with this image"' in right
    assert 'aria-label="a, place 1. Ask both with this image"' in left


def test_a_query_to_two_known_encoders_ranks_none(service: Any, answers: dict[str, Any]) -> None:
    client = service(**answers)
    assert "found by both" in CompareTab(client).search(turn(), "enc_old", "enc_new", "sample", WORDS, "ant", None)
    assert client.arguments_of("encoder_figures") == []
    CompareTab(client).search(turn(), "enc_old", "enc_gone", "sample", WORDS, "ant", None)
    assert len(client.arguments_of("encoder_figures")) == 2, "the best one replaces the one that is gone"


def test_a_failed_opening_is_tried_again_and_what_was_typed_stays(
    service: Any, answers: dict[str, Any], away: Exception
) -> None:
    tab = CompareTab(service(**{**answers, "encoders": away}))
    *_, bare, drawn, _, mode, text, _, _ = tab.open_link(request_of(), turn(), None, None, None, False)
    assert (bare, "data-reopen" in drawn) == (True, True)
    tab.client.answers["encoders"] = [NEW, OLD]
    left, *_, drawn, _, mode, text, _, _ = tab.open_address(request_of(), turn(), None, None, None, bare)
    assert (left["value"], drawn, mode, text) == ("enc_old", INVITATION, gr.skip(), gr.skip())


def test_one_side_that_is_refused_does_not_take_the_other_along(service: Any, answers: dict[str, Any]) -> None:
    def search(collection: str, **_: Any) -> Any:
        if collection == "col_old":
            raise ApiError(409, "conflict", "the encoder is gone")
        return hits("d")

    drawn = CompareTab(service(**{**answers, "search": search})).search(
        turn(), "enc_old", "enc_new", None, WORDS, "x", None
    )
    assert "the encoder is gone" in drawn
    assert "1. d" in drawn
    assert "0 of 1" in drawn


def test_at_first_the_two_newest_are_taken_and_choices_stay(service: Any, answers: dict[str, Any]) -> None:
    tab = CompareTab(service(**answers))
    left, right, dataset, bare, shown, go = tab.refresh(None, None, None)
    assert go.interactive
    assert (left["value"], right["value"], dataset["value"], bare) == ("enc_old", "enc_new", "sample", False)
    assert shown == gr.skip(), "somebody may have asked already"
    assert tab.refresh("enc_old", "enc_new", "sample", True)[3:5] == (False, INVITATION)
    assert "The same encoder twice" in tab.refresh("enc_new", "enc_new", "sample")[4]
    left, right, *_ = tab.refresh("enc_new", "enc_gone", "sample")
    assert (left.get("value"), right["value"]) == (None, "enc_old"), (
        "another may have been chosen on the left meanwhile"
    )


def test_an_address_sets_the_pickers(service: Any, answers: dict[str, Any]) -> None:
    request, fresh = request_of(left="enc_new", right="enc_old", q="ant"), (None, None, None, True)
    tab = CompareTab(service(**answers))
    for handle in (tab.open_link, tab.open_address):
        left, right, dataset, _, shown, _, mode, text, *_ = handle(request, turn(), *fresh)
        assert (left["value"], right["value"], dataset["value"]) == ("enc_new", "enc_old", "sample")
        assert "“ant”" in shown
        assert (mode, text.value) == (WORDS, "ant")


def test_an_opening_of_the_tab_without_a_query_leaves_query_and_results(service: Any, answers: dict[str, Any]) -> None:
    client = service(**answers)
    tab, shown = CompareTab(client), ("enc_old", "enc_new", "sample", False)
    for parameters in ({}, {"left": "enc_new", "right": "enc_old"}):
        left, *_, results, _, mode, text, frame, chips = tab.open_link(request_of(**parameters), turn(), *shown)
        assert left.get("value") == parameters.get("left")
        assert (results, mode, text, frame, chips) == (gr.skip(),) * 5
    assert client.arguments_of("search") == []
    *_, results, _, mode, text, _, _ = tab.open_address(request_of(), turn(), *shown)
    assert (results, mode, text.value) == (INVITATION, WORDS, ""), "Back leads to the page without a query"


def test_what_was_asked_while_an_address_was_opened_stays(service: Any, answers: dict[str, Any]) -> None:
    tab, newest = CompareTab(service(**answers)), turn()

    def ask_meanwhile() -> list[Any]:
        newest.current += 1
        return [NEW, OLD]

    tab.client.answers["encoders"] = ask_meanwhile
    *_, shown, _, mode, text, frame, chips = tab.open_address(request_of(q="ant"), newest, None, None, None, True)
    assert (shown, mode, text, frame, chips) == (gr.skip(),) * 5


def test_the_newest_of_several_queries_is_drawn(service: Any, answers: dict[str, Any]) -> None:
    """A hit is asked for while a search by words waits for an encoder."""
    newest, drawn = turn(), []

    def search(collection: str, **query: Any) -> Any:
        if "text" in query and not drawn:
            event: Any = SimpleNamespace(pick="item:b")
            drawn.append(tab.follow(newest, "enc_old", "enc_new", "sample", event))
        return hits("a")

    tab = CompareTab(service(**{**answers, "search": search}))
    assert tab.submit_query(newest, "enc_old", "enc_new", "sample", WORDS, "ant", None) == gr.skip()
    assert "for this image" in drawn[0]


def test_figures_of_the_newest_pair_are_drawn(service: Any) -> None:
    newest = turn()

    def compare(left: str, right: str) -> dict[str, Any]:
        if right == "enc_new":
            tab.draw_figures(newest, left, "enc_other")
        return {"left": OLD, "right": NEW, "rows": []}

    tab = CompareTab(service(compare_encoders=compare, encoder_figures=[]))
    assert tab.draw_figures(newest, "enc_old", "enc_new") == gr.skip()


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_address_with_an_encoder_that_is_gone_says_so(service: Any, answers: dict[str, Any], side: str) -> None:
    client = service(**answers)
    tab = CompareTab(client)
    for handle in (tab.open_link, tab.open_address):
        *_, bare, shown, go, mode, text, _, _ = handle(
            request_of(**{side: "enc_gone", "q": "ant"}), turn(), None, None, None, True
        )
        assert "There is no encoder &#x27;enc_gone&#x27;." in shown
        assert (bare, go.interactive) == (True, True), "the others can be asked"
        assert (mode, text) == (gr.skip(),) * 2
    assert client.arguments_of("search") == []


def test_who_is_quicker_than_the_pickers_is_answered(service: Any, answers: dict[str, Any]) -> None:
    assert "2 of 3" in CompareTab(service(**answers)).search(turn(), None, None, None, WORDS, "ant", None)


def test_what_is_missing_is_said_with_the_way_to_it(service: Any, answers: dict[str, Any], away: Exception) -> None:
    lonely = CompareTab(service(**{**answers, "encoders": [NEW]}))
    *_, shown, go = lonely.refresh(None, None, None)
    assert "Two encoders are needed" in shown
    assert not go.interactive, "it could not work"
    assert "Two encoders are needed" in lonely.search(turn(), "enc_new", None, None, WORDS, "x", None)
    without = CompareTab(service(**{**answers, "collections": COLLECTIONS[:1]}))
    for drawn in (
        without.refresh(None, None, None)[4],
        without.search(turn(), "enc_old", "enc_new", None, WORDS, "x", None),
    ):
        assert "lcl submit index --set encoder=enc_old --set dataset=sample --set collection=sample-old" in drawn
        assert "encoder=enc_new" not in drawn
    assert not without.refresh(None, None, None)[-1].interactive
    tab = CompareTab(service(**answers))
    assert "Type a few words first" in tab.submit_query(turn(), "enc_old", "enc_new", None, WORDS, " ", None)
    assert tab.search(turn(), "enc_old", "enc_new", None, WORDS, " ", None) == INVITATION, "nobody asked to search"
    assert "no answer from" in CompareTab(service(encoders=away)).refresh(None, None, None)[4]
    nothing = CompareTab(service(**answers))
    assert "Ask both" in nothing.search(turn(), "enc_old", "enc_new", None, IMAGE, "words are not asked", None)


def test_names_that_several_encoders_have_are_reported_apart(service: Any, answers: dict[str, Any]) -> None:
    twins = [{**NEW, "name": "same"}, {**OLD, "name": "same"}]
    left, *_ = CompareTab(service(**{**answers, "encoders": twins})).refresh(None, None, None)
    assert [words for words, _ in left["choices"]] == ["same · _new", "same · _old"]


def test_figures_come_with_their_intervals_and_the_better_one_is_bold_where_that_is_clear() -> None:
    def row(metric: str, left: float, right: float, interval: tuple[float, float] | None, p: float | None) -> Any:
        facts = {"left": left, "right": right, "difference": right - left, "interval": interval, "p": p}
        return {**QUESTION, "metric": metric, "chance": 0.01, "left_run": "r1", "right_run": "r2", **facts}

    rows = [
        row("IR@5", 0.2, 0.3, (0.05, 0.15), 0.0004),
        row("IR@1", 0.1, 0.11, (-0.02, 0.04), 0.4),
        row("IR median rank", 20, 30, (5, 15), 0.01),
        row("acc@1", 0.5, 0.6, None, None),
    ]
    own = [[{**QUESTION, "metric": "IR@5", "run_id": run, "interval": (0.1, 0.4)}] for run in ("r1", "other")]
    drawn = draw_figures([OLD, NEW], rows, own)
    body = {line.split("</th>")[0]: line for line in drawn.split('<th scope="row">')[1:]}
    assert "<td>0.200<small>[0.100, 0.400]</small></td><td><b>0.300</b></td>" in body["IR@5"]
    assert "+0.100<small>[0.050, 0.150]</small>" in body["IR@5"]
    assert "&lt; .001" in body["IR@5"]
    assert "<b>" not in body["IR@1"]
    assert "[−0.020, 0.040]" in body["IR@1"]
    assert "<td><b>20.0</b></td><td>30.0</td>" in body["IR median rank"], "a low rank is a good one"
    assert "<b>" not in body["acc@1"]
    assert "No figures in common" in draw_figures([OLD, NEW], [], own)


def test_a_figure_without_a_difference_has_the_reason() -> None:
    facts = {"left": 0.2, "right": 0.3, "difference": None, "reason": "evaluated with different settings: <source>"}
    drawn = draw_figures(
        [OLD, NEW], [{**QUESTION, "metric": "IR@5", "left_run": "r1", "right_run": "r2", **facts}], [[], []]
    )
    assert "<td><small>evaluated with different settings: &lt;source&gt;</small></td>" in drawn
    assert "<b>" not in drawn


def test_figures_are_fetched_for_two_that_differ(service: Any, away: Exception) -> None:
    client = service(compare_encoders={"left": OLD, "right": NEW, "rows": []}, encoder_figures=[])
    assert "Figures of both" in CompareTab(client).draw_figures(turn(), "enc_old", "enc_new")
    assert CompareTab(client).draw_figures(turn(), "enc_old", "enc_old") == ""
    assert "no answer from" in CompareTab(service(compare_encoders=away)).draw_figures(turn(), "enc_old", "enc_new")
