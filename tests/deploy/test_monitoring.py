"""Alert rules and dashboard: every query parses, and names figures, labels and values that the api exposes."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client.exposition import generate_latest

from api.app import create_app
from api.core.settings import ApiSettings
from lcl_core.db.models import Worker
from lcl_core.db.states import State
from lcl_core.jobs import JOB_KINDS, RESOURCE_CLASSES

pytestmark = pytest.mark.extended

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
BOARD = json.loads((FOLDER / "grafana" / "dashboards" / "lcl.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]},
}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
BY_PROMETHEUS = {"up"}
VALUES = {"state": {state.value for state in State}, "kind": set(JOB_KINDS), "class": set(RESOURCE_CLASSES)}
LABELS = {"le", "job", "instance", *VALUES}
LABELS |= {"method", "route", "status", "what", "worker", "gpu", "name", "folder"}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    """Names of all series that a scrape may hold."""
    home = tmp_path_factory.mktemp("home")
    settings = ApiSettings(home=home, _env_file=None)  # type: ignore[call-arg]
    context = create_app(settings).state.context
    context.database.migrate()
    moment = datetime.now(UTC)
    with context.database.session() as session:
        facts = {"host": "h", "pid": 1, "devices": [], "started_at": moment, "seen_at": moment}
        session.add(Worker(id="w", **facts))
    text = generate_latest(context.metrics.registry).decode()
    context.close()
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    return {re.sub("_total$", "", name) + suffix for name, kind in kinds for suffix in SUFFIXES[kind]} | BY_PROMETHEUS


def selectors(node):
    """Every vector selector of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        yield from selectors(getattr(node, name)) if getattr(node, name, None) is not None else ()
    for argument in getattr(node, "args", None) or ():
        yield from selectors(argument)


def grouped_by(query):
    return {
        label.strip()
        for labels in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", query)
        for label in labels.split(",")
        if label.strip()
    }


@pytest.mark.parametrize("title", QUERIES)
def test_a_query_names_what_the_api_exposes(title, exposed):
    found = list(selectors(promql_parser.parse(QUERIES[title])))
    assert found, "a query without any figure"
    assert {selector.name for selector in found} <= exposed
    assert grouped_by(QUERIES[title]) <= LABELS
    for selector in found:
        for matcher in selector.matchers.matchers:
            assert matcher.name in LABELS, matcher.name
            if matcher.name in VALUES:
                assert set(matcher.value.split("|")) <= VALUES[matcher.name], matcher.value


def test_every_figure_of_the_house_is_on_the_board(exposed):
    on_board = {s.name for query in QUERIES.values() for s in selectors(promql_parser.parse(query))}
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in exposed if name.startswith("lcl_")}
    assert ours - {re.sub("_(bucket|sum|count)$", "", name) for name in on_board} == set()
