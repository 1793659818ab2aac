"""The page asks no other host, is locked by keys, and opens no files that a client names."""

from itertools import product
from pathlib import Path

import httpx
import pytest
from gradio import processing_utils
from playwright.sync_api import Error, expect

from app.page.mount import policy
from app.settings import Settings
from tests.app.conftest import get, post, running, tracked
from tests.app.page.browser import EML, LONG, MAIL, SHOWN, ask, check, fill, open_tab, press

pytestmark = pytest.mark.slow
KEY = "a key of this server"
NOT_OPEN = (
    *("file=/etc/passwd", "file//etc/passwd", "proxy=http://127.0.0.1:9/", "stream/a/0/1/playlist-file", "runs"),
    *("deep_link?session_hash=s0", "info", "openapi.json", "monitoring/summary", "process_recording", "dev/reload"),
    "custom_component/x",
)


def test_page_asks_no_other_host_and_its_policy_blocks_nothing_of_it(page, address, seen):
    seen["errors"].clear()  # such as that of a script in an answer
    page.reload()
    for tab in ("Email", "Compare", "Chat"):
        open_tab(page, tab)
    sent = httpx.get(address, timeout=60, headers={"accept-encoding": "br"})
    assert all(url.startswith((address, "data:", "blob:", "about:")) for url in seen["asked"])
    assert len(seen["asked"]) > 50
    assert any("/queue/data" in url for url in seen["asked"]), "`settled` waits for these"
    assert [error for error in seen["errors"] if "Security Policy" in error] == []
    assert sent.headers["content-security-policy"] == policy(sent.content)
    assert "'unsafe-inline'" not in sent.headers["content-security-policy"].split("style-src")[0]
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.2:1/')")
    assert any("Security Policy" in error for error in seen["errors"])


def test_permission_keys_lock_the_page(browser, store, tmp_path):
    settings = Settings(
        api_keys=("another", KEY),
        quarantine=tmp_path,
        feedback=False,
        context_length=256,
    )
    with tracked(store), running(settings, page=True) as address, browser.new_context() as context:
        assert post(address, "/gradio_api/queue/join", {"data": []}).status_code == 401
        assert get(address, "/config").status_code == 401
        assert httpx.post(f"{address}/login", data={"username": "me", "password": "a"}, timeout=60).status_code == 400
        page = context.new_page()
        page.set_default_timeout(LONG)
        page.goto(address)
        fill(page.get_by_label("username"), "me")
        fill(page.get_by_label("password"), KEY)
        press(page, "Login")
        expect(page.get_by_label("Version").first).to_have_value("assistant/1, in use")
        assert ask(page, "hello") == SHOWN
        assert page.get_by_role("button", name="Like", exact=True).count() == 0
        check(page, **MAIL)
        expect(page.locator("#verdict")).to_contain_text("Looks like")
        assert page.get_by_role("button", name="Real mail").count() == 0
        assert page.locator(".consent").count() == 0
        page.close()


def test_gradio_answers_the_paths_that_the_page_needs_alone(address):
    missing = get(address, "/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert get(address, "/v1/chat/completions").status_code == 405
    assert get(address, "/healthz").json() == {"status": "ok"}
    with httpx.Client(base_url=address, timeout=60) as client:
        for method, prefix, path in product(("GET", "POST"), ("/gradio_api/", "/"), NOT_OPEN):
            answer = client.request(method, f"{prefix}{path}")
            if (prefix, path) != ("/", "openapi.json"):  # the app's own
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (prefix, path)


def test_uploads_have_a_total(store, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def upload(content: bytes) -> httpx.Response:
        return httpx.post(f"{address}/gradio_api/upload", files={"files": ("m.eml", content * 60_000)}, timeout=60)

    with tracked(store), running(Settings(body_bytes=100_000, upload_bytes=250_000), page=True) as address:
        answers = [upload(content) for content in (b"a", b"b", b"c", b"d")]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 503]
        assert answers[-1].json()["error"]["code"] == "uploads_full"
        Path(answers[0].json()[0]).unlink()  # as when it has been read
        assert upload(b"d").status_code == 200


def test_file_that_a_client_names_is_neither_read_nor_fetched(address, tmp_path, monkeypatch):
    read, fetched, fetch = [], [], processing_utils.async_ssrf_protected_download

    async def noted(url, cache_dir):
        fetched.append(url)
        return await fetch(url, cache_dir=cache_dir)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", noted)

    def read_mails(paths):
        read.append(Path(*paths).read_bytes())
        return []

    monkeypatch.setattr("app.page.email.read_mails", read_mails)
    secret, far = tmp_path / "secret.eml", "http://model.example/mail.eml"
    secret.write_bytes(b"Subject: a secret\n\nof this machine")
    own = httpx.post(f"{address}/gradio_api/upload", files={"files": ("m.eml", EML)}, timeout=60).json()[0]
    config = get(address, "/config").json()
    uploads = [component["id"] for component in config["components"] if component["type"] == "uploadbutton"]
    assert len(uploads) == 1
    events = [event for event in config["dependencies"] if event["queue"] and event["inputs"]]
    for number, path in enumerate((str(secret), far, own)):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for event in events:
            data = [file] * len(event["inputs"])
            if uploads[0] in event["inputs"]:
                data = [None] * len(event["inputs"])
                data[event["inputs"].index(uploads[0])] = file
            body = {"fn_index": event["id"], "data": data, "session_hash": f"s{number}"}
            post(address, "/gradio_api/queue/join", body)
        stream = httpx.get(f"{address}/gradio_api/queue/data?session_hash=s{number}", timeout=300).text
        assert "process_completed" in stream
        assert "a secret" not in stream
    assert secret.exists()  # a file that is read is removed
    assert set(read) == {EML}
    assert set(fetched) == {far}
    assert not list(Path(own).parents[1].rglob("secret.eml"))
