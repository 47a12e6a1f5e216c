"""The page about a search in a real browser, at the width of a desk and of a telephone, of few networks and of 500."""
from __future__ import annotations

import json
import random

import pytest
from chromium import bounds, by, needed, run

from fxgrow.experiments.evolve import Member, Scored, SearchConfig, Store, report, search

pytestmark = needed
SETTINGS = {"model": "zoo:mlp:hidden=(8,8)", "data": "digits", "limit": 60, "first_steps": 4, "rounds": 2, "keep": 2,
            "children": 3, "steps": 10, "final_steps": 2, "train": {"batch_size": 20, "lr": 0.05},
            "mutations": [{"pass": "widen", "factor": [1.5, 2.0, 9.0]}, {"pass": "deepen"}]}
ODD = "<script>hurt=1</script><img src=x onerror='hurt=1'>"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return search(SearchConfig.of(SETTINGS), tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def pages(found, tmp_path_factory):
    """A page of a small search, one of 500 networks, and one where all names look like markup and a file is damaged."""
    folder = tmp_path_factory.mktemp("pages")
    made = {"small": folder / "small.html", "many": folder / "many.html", "odd": folder / "odd.html"}
    report(found.folder, made["small"])
    network = Store(found.folder).get(found.evaluations[0].archive)
    synthetic(folder / "many", network, 500)
    report(folder / "many", made["many"], changes="line")
    odd = synthetic(folder / "odd", network, 8, ODD)
    odd.add_evaluations([Scored(odd.members()[7], 99, "0" * 64, 0.99, 0.1, "", 1, 1, 0.1)])
    (folder / "odd" / "ensembles.json").write_text(json.dumps([{"method": ODD, "accuracy": 0.91234}]))
    report(folder / "odd", made["odd"], title="<b>bold</b>")
    return made


def synthetic(folder, network: bytes, count: int, where: str = "layers") -> Store:
    """A search of so many members, ten a round, three of them kept, whose networks are all one."""
    store, rng = Store(folder), random.Random(0)
    store.keep_settings(SearchConfig.of({**SETTINGS, "rounds": 100, "keep": 3, "children": 10}).to_json())
    name, kept, accuracy = store.put(network), [0], {0: 0.5}
    for number in range(count):
        round = (number + 9) // 10
        if number % 10 == 1:
            kept = sorted(accuracy, key=lambda n: -accuracy[n])[:3]
        step = None if number == 0 else {"pass": rng.choice(["widen", "deepen", "skip"]), "where": where, "seed": number}
        parent = rng.choice(kept) if number else None
        member = Member(number, round, parent, step, f"g{number}", 1000 + 30 * number, 5000 + rng.randrange(90 * number + 1))
        store.add_members([member], round, kept if number else [], [])
        accuracy[number] = min(0.99, accuracy.get(parent, 0.4) + rng.gauss(0, 0.02))
        store.add_evaluations([Scored(member, round, name, accuracy[number], 1.0, "", 10 ** 9, 5, 0.5)])
    with store.transaction():
        store.db.execute("INSERT INTO discarded VALUES (1, 0, ?, ?)", (json.dumps({"pass": "widen", "where": where}), where))
    return store


def shown(browser) -> set[int]:
    return set(run(browser, "return [...document.querySelectorAll('[data-number]')].map((g) => Number(g.dataset.number))"))


def inside(inner: dict[str, float], outer: dict[str, float]) -> bool:
    return outer["left"] <= inner["left"] and inner["right"] <= outer["right"] and outer["top"] <= inner["top"] \
        and inner["bottom"] <= outer["bottom"]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["small", "many", "odd"])
def test_it_fits_the_screen(opened, name, width):
    browser = opened(name, width)
    assert run(browser, "return document.documentElement.scrollWidth") <= width
    sections = run(browser, "return [...document.querySelectorAll('section')].map((s) => s.id)")
    assert set(sections) >= {"lineage", "fronts", "progress", "best", "all", "discarded", "settings"}
    assert ("damaged" in sections) == ("ensembles" in sections) == (name == "odd")
    best = run(browser, "return fxgrow.told.best")
    assert inside(bounds(browser, f"[data-number='{best}'] circle"), bounds(browser, ".lineage .stage"))
    run(browser, "fxgrow.go(5)")
    assert run(browser, "return document.documentElement.scrollWidth") <= width
    for chart in run(browser, """return [...document.querySelectorAll('.chart')].map(
            (c) => c.getBoundingClientRect().toJSON())"""):
        assert chart["right"] <= width and chart["height"] > 200


@pytest.mark.parametrize("width", [1280, 390])
def test_search_finds_a_network_and_opens_what_hides_it(opened, width):
    from selenium.webdriver.common.keys import Keys
    browser = opened("many", width)
    dead = next(n for n in range(300, 500) if n not in shown(browser))
    by(browser, "#member").send_keys(str(dead))
    assert by(browser, "#members-found li").text.startswith(str(dead))
    by(browser, "#member").send_keys(Keys.ENTER)
    assert dead in shown(browser) and by(browser, "#card h3").text.startswith(f"#{dead} ")
    assert inside(bounds(browser, f"[data-number='{dead}'] circle"), bounds(browser, ".lineage .stage"))
    by(browser, "#member").clear()
    by(browser, "#member").send_keys("skip layers")
    steps = run(browser, "return [...document.querySelectorAll('#members-found small')].map((e) => e.textContent)")
    assert len(steps) == 50 and all("skip layers" in step for step in steps)
    by(browser, "#member").clear()
    by(browser, "#member").send_keys("no such step")
    assert "no network is called so" in by(browser, "#members-found").text


def test_branches_close_and_open(opened):
    browser = opened("small")
    every = shown(browser)
    tree = run(browser, "return fxgrow.told.members.map((m) => [m.number, m.parent])")
    assert every == {n for n, _ in tree}
    top = next(parent for _, parent in reversed(tree) if parent)
    under = {top}
    for number, parent in tree:
        if parent in under:
            under.add(number)
    before = bounds(browser, f"[data-number='{top}'] circle")
    by(browser, f"[data-chip='{top}']").click()
    assert shown(browser) == every - (under - {top})
    assert by(browser, f"[data-chip='{top}']").text.startswith(f"+{len(under) - 1}")
    after = bounds(browser, f"[data-number='{top}'] circle")
    assert (after["left"], after["top"]) == pytest.approx((before["left"], before["top"]), abs=1)
    by(browser, f"[data-chip='{top}']").click()
    assert shown(browser) == every


def test_500_networks_open_fold_and_move(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    browser = opened("many")
    living = shown(browser)
    assert 3 < len(living) < 100  # of so many the living branches come first
    run(browser, "[...document.querySelectorAll('button')].find((b) => b.textContent === 'all branches').click()")
    assert shown(browser) == set(range(500))
    spots = run(browser, "return [...fxgrow.view.lineage.nodes.values()].map((n) => [n.x, n.y])")
    assert len({(x, round(y)) for x, y in spots}) == 500  # none upon another
    view = by(browser, ".lineage svg")
    run(browser, "fxgrow.view.stage.scrollIntoView()")
    x, y, k = run(browser, "const { x, y, k } = fxgrow.view.at; return [x, y, k]")
    drag = ActionChains(browser).move_to_element_with_offset(view, -300, 20).click_and_hold().move_by_offset(50, 30)
    drag.release().perform()
    assert run(browser, "const { x, y, k } = fxgrow.view.at; return [x, y, k]") == pytest.approx([x + 50, y + 30, k])
    view.send_keys("+", Keys.ARROW_LEFT)
    assert run(browser, "return fxgrow.view.at.k") > k
    run(browser, "[...document.querySelectorAll('button')].find((b) => b.textContent === 'living branches').click()")
    assert shown(browser) == living
    run(browser, "document.querySelector('#columns').value = 'generation'; "
                 "document.querySelector('#columns').dispatchEvent(new Event('change'))")
    generations = run(browser, "return fxgrow.view.lineage.place().columns")
    assert generations == list(range(len(generations))) and len(generations) < 51
    assert run(browser, "return document.querySelectorAll('#members tbody tr').length") == 500


def test_hovering_and_clicking_tell_all_about_a_network(opened, found):
    from selenium.webdriver.common.action_chains import ActionChains
    browser = opened("small")
    last = found.evaluations[-2].member
    run(browser, "fxgrow.view.stage.scrollIntoView()")
    ActionChains(browser).move_to_element(by(browser, f"[data-number='{last.number}'] circle")).perform()
    words = by(browser, ".lineage .tip").text
    assert f"#{last.number} of #{last.parent}" in words and last.step["pass"] in words and "accuracy 0." in words
    ActionChains(browser).click().perform()
    card = by(browser, "#card").text
    assert card.startswith(f"#{last.number} {last.step['pass']}")
    assert str(last.step["seed"]) in card and "line of descent" in card
    rows = run(browser, "return [...document.querySelectorAll('#layers tbody tr')].map((e) => e.textContent)")
    assert rows and any("grown" in row or "inserted" in row for row in rows)
    run(browser, "document.querySelector('#card .link').click()")
    assert by(browser, "#card h3").text.startswith("#0 base network")


def test_the_front_is_the_front(opened):
    """Those that none beats in both, each chart by its own cost; a point tells of its network and leads to it."""
    from selenium.webdriver.common.action_chains import ActionChains
    browser = opened("many")
    members = run(browser, "return fxgrow.told.members.map((m) => [m.number, m.accuracy, m.flops, m.parameters])")
    charts = run(browser, """return [...document.querySelectorAll('#fronts .chart')].map((c) =>
        [...c.querySelectorAll('.front')].map((p) => Number(p.dataset.point)))""")
    for at, marked in zip((2, 3), charts):
        beaten = {m[0] for m in members for o in members
                  if o[1] >= m[1] and o[at] <= m[at] and (o[1], o[at]) != (m[1], m[at])}
        assert set(marked) == {m[0] for m in members} - beaten
    point = by(browser, f"#fronts .front[data-point='{charts[0][0]}']")
    run(browser, "arguments[0].scrollIntoView({ block: 'center' })", point)
    ActionChains(browser).move_to_element(point).perform()
    assert "on the front" in by(browser, "#fronts .tip").text
    point.click()
    assert by(browser, "#card h3").text.startswith(f"#{charts[0][0]} ")


def test_the_best_network_is_drawn_and_its_descent_told(opened, found):
    browser = opened("small")
    line = run(browser, """return [...document.querySelectorAll('.descent > li > .link')].map(
        (e) => Number(e.textContent.slice(1)))""")
    assert line[0] == 0 and line[-1] == found.best.number
    assert run(browser, "return document.querySelectorAll('#best .stage g[data-path]').length") > 3
    orange = run(browser, "return document.querySelectorAll('.lineage path[stroke=\"#D55E00\"]').length")
    assert orange == len(line) - 1
    if len(line) > 1:
        assert "grown" in by(browser, "#changes").text or "inserted" in by(browser, "#changes").text
    assert f"fxgrow evolve --resume {found.folder}" in by(browser, "#settings").text


def test_names_are_text_and_damage_is_told(opened):
    browser = opened("odd")
    run(browser, "fxgrow.go(3)")
    assert run(browser, "return window.hurt || null") is None
    assert browser.title == "<b>bold</b> · fxgrow" and by(browser, "h1").text == "<b>bold</b>"
    assert ODD in by(browser, "#card h3").text
    assert ODD in by(browser, "#ensembles").text and "0.9123" in by(browser, "#ensembles").text
    assert run(browser, "return document.querySelectorAll('main img, main script').length") == 0
    assert "#7" in by(browser, "#damaged").text and "cannot be read" in by(browser, "#damaged").text
    assert run(browser, "return document.querySelector('[data-number=\"7\"]').textContent").startswith("!")
    by(browser, "#member").send_keys("<script>")
    assert ODD in by(browser, "#members-found").text
