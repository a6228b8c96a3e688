"""What a person does on the screens, in a real browser; hostile rows; a report."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser

from sapwood.page.drawn.report import report_html, write_report
from sapwood.page.drawn.texts import Words
from tests.browser import page_in
from tests.page.conftest import Looking
from tests.page.hostile import HOSTILE
from tests.page.shared import Server, made_run, sample, serve


def test_two_hundred_hostile_rows_are_text_everywhere_and_none_of_them_runs(
    browser: Browser, looking: Looking, server: Server, runs: Path, trained: Path, home: Path
) -> None:
    made_run(runs, "hostile")
    hostile = next(runs.glob("*-hostile-*"))
    spoil(hostile)
    with looking(server) as page:
        seen = 0
        for number in range(6):
            page.goto(server.url(f"/data?run={trained.name}&page={number}"))
            page.locator("tbody tr").first.wait_for()
            seen += page.locator("tbody tr").count()
        assert seen == 300
        page.goto(server.url(f"/data?run={trained.name}&q=constructor&row=260"))
        page.locator("article.card").wait_for()
        bad, good = hostile.name, trained.name
        for path in ("/", f"/run/{bad}", f"/run/{bad}?tab=answers", f"/compare?runs={bad}",
                     f"/run/{good}?tab=answers"):  # fmt: skip
            page.goto(server.url(path))
            page.locator("h1").wait_for()
            page.wait_for_timeout(400)
        assert page.evaluate("window.hit || 0") == 0
        page.goto(server.url(f"/run/{hostile.name}?tab=answers"))
        page.locator(".said").first.wait_for()
        assert page.locator(".said script, .said img, .said svg, .said iframe").count() == 0
        assert HOSTILE[0] in page.locator(".said").all_inner_texts()
    report = home / "hostile.html"
    write_report(hostile.name, runs, report, "en")
    with page_in(browser, 900, 800) as page:
        page.goto(report.as_uri())
        page.wait_for_timeout(300)
        assert page.evaluate("window.hit || 0") == 0 and page.locator("main script").count() == 0


def spoil(run: Path) -> None:
    """Give a run a hostile name, base and answers, as a hub or a model could."""
    import json

    from sapwood.run.store import reopen_run

    about = json.loads((run / "run.json").read_bytes())
    about["name"], about["facts"]["base"] = HOSTILE[0], HOSTILE[5]
    (run / "run.json").write_text(json.dumps(about), encoding="utf-8")
    from tests.page.shared import evaluated

    with reopen_run(run) as store:
        store.record(evaluated(41, 1.0, *(sample(text, prompt=text) for text in HOSTILE)))


def test_rows_are_searched_filtered_sorted_and_one_is_shown_token_by_token(
    looking: Looking, server: Server, trained: Path
) -> None:
    with looking(server) as page:
        page.goto(server.url(f"/data?run={trained.name}"))
        page.locator("tbody tr").first.wait_for()
        page.get_by_role("link", name="contradiction").click()
        page.get_by_text("1 to 2 of 2").first.wait_for()
        assert "issue=contradiction" in page.url
        page.get_by_label("Search the text").fill("never")
        page.get_by_text("1 to 1 of 1").first.wait_for()
        page.locator("tbody a").first.click()
        card = page.locator("article.card")
        card.wait_for()
        assert "rows.jsonl:100" in card.inner_text() and card.locator(".tokens .on").count() > 1
        page.reload()  # the address holds all that was chosen
        page.locator("article.card").wait_for()
        assert "rows.jsonl:100" in page.locator("article.card").inner_text()
        page.goto(server.url(f"/data?run={trained.name}&sort=-tokens"))
        page.locator("tbody tr").first.wait_for()
        lengths = [
            int(text.replace(",", "")) for text in page.locator("tbody td:nth-child(2)").all_inner_texts()
        ]
        assert lengths == sorted(lengths, reverse=True)


def test_base_and_adapter_answer_one_question_and_what_they_say_is_kept(
    looking: Looking, server: Server, trained: Path, runs: Path
) -> None:
    import json

    with looking(server) as page:
        page.goto(server.url(f"/chat?with={trained.name}"))
        page.get_by_text("by proof").wait_for(timeout=90_000)
        page.get_by_text("System prompt and sampling").click()
        page.get_by_label("Longest answer").fill("6")
        page.get_by_label("Ask something").fill("What grows?")
        page.keyboard.press("Enter")
        page.locator(".answered small").nth(1).wait_for(timeout=90_000)
        chips = page.locator(".probable span")
        assert chips.count() >= 2 and "%" in (chips.first.get_attribute("data-i") or "")
        page.get_by_role("button", name="Better than the others").last.click()
        page.get_by_text("Kept in").wait_for()
        page.get_by_role("button", name="Keep as a row").last.click()
        page.get_by_label("Assistant").fill("An apple tree.")
        page.locator(".keep").get_by_role("button", name="Keep as a row").click()
        page.get_by_text("chat.jsonl").wait_for()
    pair = json.loads((runs / "kept" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    row = json.loads((runs / "kept" / "chat.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert [turn["content"] for turn in pair["prompt"]] == ["What grows?"] and set(pair) >= {
        "chosen",
        "rejected",
    }
    assert row["messages"][-1] == {"role": "assistant", "content": "An apple tree."} and row["changed"] == [1]


def test_a_page_that_only_shows_has_no_button_that_changes_anything(
    looking: Looking, home: Path, runs: Path, trained: Path
) -> None:
    found = serve(home, runs, 0, "--read-only")
    try:
        with looking(found) as page:
            stopped = next(runs.glob("*-stopped-*")).name
            for path in ("/", f"/run/{stopped}", f"/ship?run={trained.name}", f"/data?run={trained.name}"):
                page.goto(found.url(path))
                page.locator("h1").wait_for()
                page.get_by_text("This page only shows").wait_for()
                assert page.locator(".q-btn.btn").count() == 0, path
    finally:
        found.stop()


def test_home_lists_what_caches_and_runs_hold_and_what_they_take_of_the_disk(
    looking: Looking, server: Server, trained: Path
) -> None:
    with looking(server) as page:
        page.locator("tr", has_text="hf:org/held-base").wait_for(timeout=60_000)
        assert "model" in page.locator("tr", has_text="hf:org/held-base").inner_text()
        assert "adapter" in page.locator("tr", has_text="hf:org/held-adapter").inner_text()
        assert "trained here" in page.locator(f'tr:has(a[href="/ship?run={trained.name}"])').inner_text()
        disk = page.locator(".tiles > div", has_text="Disk used")
        disk.get_by_text("caches").wait_for()  # what is free was there before
        assert re.search(r"runs [\d.]+ [kMG]B, caches [\d.]+ [kMG]?B; .* free", disk.inner_text())


def test_a_new_run_offers_models_that_the_caches_of_hubs_hold_and_no_adapter(
    looking: Looking, server: Server
) -> None:
    with looking(server) as page:
        page.goto(server.url("/new"))
        field = page.get_by_label("base.model")
        field.fill("held")
        page.get_by_role("option", name="hf:org/held-base").wait_for(timeout=60_000)
        assert page.get_by_role("option", name="held-adapter").count() == 0


def test_language_and_light_are_switched_on_the_page_and_stay(looking: Looking, server: Server) -> None:
    with looking(server) as page:
        page.get_by_role("button", name="Switch language").click()
        page.get_by_role("heading", name="训练").wait_for()
        page.get_by_role("button", name="深色").click()
        page.locator('html[data-dark="1"]').wait_for(state="attached")
        page.goto(server.url("/machine"))
        assert page.locator("h1").inner_text() == "本机"
        assert page.locator("html").get_attribute("data-dark") == "1"


def test_screens_are_reached_by_keys_and_the_content_by_the_first_tab(
    looking: Looking, server: Server
) -> None:
    with looking(server) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("body").press("g")
        page.keyboard.press("n")
        page.get_by_role("heading", name="New run").wait_for()


def test_a_report_holds_the_run_in_one_file_in_either_language(
    browser: Browser, trained: Path, tmp_path: Path
) -> None:
    for lang, words in (("en", "Held-out"), ("zh", "留出损失")):
        text = report_html(trained, Words("zh" if lang == "zh" else "en"))
        assert words in text and "<svg" in text and "template-ids" in text and "train.max_steps" in text
        assert "<script" not in text and 'src="' not in text and "http" not in text.replace("http-equiv", "")
    file = tmp_path / "report.html"
    write_report(trained.name, trained.parent, file, "en")
    with page_in(browser, 390, 800, dark=True) as page:
        page.goto(file.as_uri())
        assert page.locator("svg.chart polyline.line").first.bounding_box()
        assert (
            page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        )
