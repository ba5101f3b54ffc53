"""`fairseq-mem-serve` as a process: its interface, limits, faults, signals and what it logs."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest
from fairseq_mem_serve import load_translator
from helpers import number_translator
from helpers.served import HANGS, SERVE, Server

pytestmark = pytest.mark.cli

GERMAN = [german for german, _ in number_translator.pairs(101, seed=11)]
GOOD = {"q": "eins zwei.", "source": "de", "target": "en"}


@pytest.fixture(scope="module")
def translator(translator_files):
    return load_translator(translator_files.exported, threads=1)


@pytest.fixture(scope="module")
def server(translator_files):
    with Server(translator_files.exported, "--threads", 2) as server:
        yield server
        assert server.ask(body=GOOD).status == 200, "it did not live on"
        assert server.stop() == 0
        secrets = [*number_translator.WORDS, "geheim", "Traceback"]
        assert not [word for word in secrets if word in server.log], "what was sent is in the log"


# ---------------------------------------------------------------- what it answers


def test_a_text_and_a_list_are_translated_as_from_python(server, translator):
    expected = translator.translate(GERMAN[:5])
    assert server.translate(GERMAN[0]) == {"translatedText": expected[0]}
    assert server.translate(GERMAN[:5]) == {"translatedText": expected}
    assert server.translate([]) == {"translatedText": []}
    assert server.translate(" \n") == {"translatedText": " \n"}


def test_a_form_is_answered_as_json_is(server):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    form = [("q", GERMAN[0]), ("q", GERMAN[1]), ("source", "de"), ("target", "en"), ("nbest", "2")]
    answer = server.ask(body=urlencode(form).encode(), headers=headers)
    assert answer.json == server.translate(GERMAN[:2], nbest=2)
    answer = server.ask(body=urlencode([*form[1:4], ("scores", "true")]).encode(), headers=headers)
    assert answer.json == server.translate(GERMAN[1], scores=True)


def test_sentences_are_split_and_put_together_with_their_lines(server, translator):
    one, two, three = "eins zwei.", "Drei vier?", "Fünf sechs sieben."
    a, b, c = translator.translate([one, two, three])
    text = f"  {one} {two}\r\n\r\n\t{three}\n"
    assert server.translate(text)["translatedText"] == f"  {a} {b}\r\n\r\n\t{c}\n"
    whole = server.translate(text, split_sentences=False)["translatedText"]
    (line,) = translator.translate([f"{one} {two}"])
    assert whole == f"  {line}\r\n\r\n\t{c}\n"


def test_nbest_and_scores_are_the_translators(server, translator):
    (expected,) = translator.translate_nbest([GERMAN[2]], beam=5, nbest=3)
    answer = server.translate(GERMAN[2], beam=5, nbest=3, scores=True)
    texts = [h.text for h in expected]
    assert answer["translatedText"] == texts[0] and answer["alternatives"] == texts[1:]
    (sentence,) = answer["sentences"]
    assert sentence["source"] == GERMAN[2]
    assert [t["text"] for t in sentence["translations"]] == texts
    scores = [h.score for h in expected]
    assert [t["score"] for t in sentence["translations"]] == pytest.approx(scores, abs=1e-4)
    # LibreTranslate's name for it
    assert server.translate([GERMAN[2], ""], beam=5, alternatives=2) == {
        "translatedText": [texts[0], ""],
        "alternatives": [texts[1:], []],
    }


def test_the_company_changes_nothing(server):
    """The same text alone, in one request of a hundred, and beside a hundred other requests."""

    def of(text, **fields):
        return server.translate(text, scores=True, nbest=2, **fields)

    text, *others = GERMAN
    alone = of(text)
    together = of(GERMAN)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(of, [*others[:50], text, *others[50:]]))
    for answer in (answers[50], {name: values[0] for name, values in together.items()}):
        assert answer["translatedText"] == alone["translatedText"]
        assert answer["alternatives"] == alone["alternatives"]
        scores = [[t["score"] for t in a["sentences"][0]["translations"]] for a in (answer, alone)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    each = answers[:50] + answers[51:]
    assert [a["translatedText"] for a in each] == together["translatedText"][1:]
    assert server.metric("fairseq_mem_batch_sentences_sum") > server.metric(
        "fairseq_mem_batch_sentences_count"
    ), "nothing was translated together"


def test_languages_health_metrics_openapi(server):
    assert server.ask("/languages").json == [{"code": "de", "name": "German", "targets": ["en"]}]
    for path in ("/health", "/health/live", "/health/ready"):
        assert server.ask(path).json == {"status": "ok"}
    assert server.translate(GERMAN[0], source="auto")["detectedLanguage"]["language"] == "de"
    before = server.metric('fairseq_mem_sentences_total{pair="de-en"}')
    server.translate(GERMAN[:3])
    assert server.metric('fairseq_mem_sentences_total{pair="de-en"}') == before + 3
    described = server.ask("/openapi.json").json
    assert set(described["paths"]) >= {"/translate", "/languages", "/health", "/metrics"}
    fields = described["components"]["schemas"]["Request"]["properties"]
    assert {"q", "source", "target", "format", "beam", "nbest", "scores"} <= set(fields)


def test_no_answer_lets_a_browser_load_anything_from_elsewhere(server):
    for path in ("/", "/page.js", "/page.css", "/favicon.svg", "/health"):
        answer = server.ask(path)
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert b"http://" not in answer.body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in answer.body


# ---------------------------------------------------------------- what it does not answer

BAD = [
    (b"", 400, "empty"),
    (b"geheim", 400, "no JSON"),
    (b'{"q": ', 400, "line 1"),
    (b"\xff\xfe", 400, "not UTF-8"),
    (b"[" * 100_000, 400, "nested"),
    (b"9" * 10_000, 400, "no JSON"),
    (b'{"q": "a", "source": "de", "target": "en", "beam": NaN}', 400, "NaN"),
    ([GOOD], 400, "no object"),
    ({}, 400, "q, source, target: missing"),
    ({**GOOD, "q": 3}, 400, "q: a number"),
    ({**GOOD, "q": None}, 400, "q: null"),
    ({**GOOD, "q": {"geheim": 1}}, 400, "q: an object"),
    ({**GOOD, "q": ["a", ["geheim"]]}, 400, "q[1]: a list"),
    ({**GOOD, "q": "ab\ud800geheim"}, 400, "q: a lone surrogate (U+D800) at character 3"),
    ({**GOOD, "q": ["a", "\udfff"]}, 400, "q[1]: a lone surrogate"),
    ({**GOOD, "source": "\ud800"}, 400, "source: a lone surrogate"),
    ({**GOOD, "\ud800": 1}, 400, "is no field"),
    ({**GOOD, "source": "fr"}, 400, "no model for 'fr' to 'en'; there is de to en"),
    ({**GOOD, "source": "en", "target": "de"}, 400, "no model"),
    ({**GOOD, "source": ["de"]}, 400, "source: a list"),
    ({**GOOD, "target": ""}, 400, "target: 0 characters"),
    ({**GOOD, "target": "e" * 100}, 400, "target: 100 characters"),
    ({**GOOD, "format": "html"}, 400, "only 'text'"),
    ({**GOOD, "colour": "blue"}, 400, "'colour' is no field; there are q, source"),
    ({**GOOD, "beam": 0}, 400, "beam: out of range; give 1 to 16"),
    ({**GOOD, "beam": 10**30}, 400, "beam: out of range"),
    ({**GOOD, "beam": 2.5}, 400, "beam: a number; give a whole number"),
    ({**GOOD, "beam": "4"}, 400, "beam: a string"),
    ({**GOOD, "beam": True}, 400, "beam: true or false"),
    ({**GOOD, "beam": 2, "nbest": 3}, 400, "nbest: 3"),
    ({**GOOD, "alternatives": 1, "nbest": 3}, 400, "give one of them"),
    ({**GOOD, "scores": 1}, 400, "scores: a number; give true or false"),
    ({**GOOD, "q": "eins " * 60}, 422, "q, sentence 1: 61 tokens or more, at most 40"),
    ({**GOOD, "q": ["a", "eins.\n" + "x" * 900_000]}, 422, "q[1], sentence 2"),
    ({**GOOD, "q": ["a"] * 1001}, 422, "1,001 texts"),
    ({**GOOD, "q": "eins.\n" * 1001}, 422, "more than 1,000 sentences"),
    (b"x" * 10_000_000, 413, "more than 1,048,576 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "says"), BAD, ids=[says for _, _, says in BAD])
def test_bad_input_is_told_and_the_process_lives_on(server, body, status, says):
    headers = {"Content-Type": "application/json"} if isinstance(body, bytes) else {}
    answer = server.ask(body=body, headers=headers)
    assert (answer.status, list(answer.json)) == (status, ["error"]), answer
    assert says in answer.json["error"] and "\n" not in answer.json["error"]
    assert "geheim" not in answer.json["error"] and len(answer.json["error"]) < 300


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/translate", "GET", {}, 405),
        ("/elsewhere", "GET", {}, 404),
        ("/../../etc/passwd", "GET", {}, 404),
        ("/page/../main.py", "GET", {}, 404),
        ("//etc/passwd", "GET", {}, 404),
        ("/translate", "POST", {"Content-Type": "text/plain"}, 415),
        ("/translate", "POST", {"Content-Type": "multipart/form-data; boundary=a"}, 415),
        ("/translate", "POST", {"Content-Type": "application/x-www-form-urlencoded"}, 400),
        ("/languages", "POST", {}, 405),
    ],
)
def test_other_requests_get_a_json_error_too(server, path, method, headers, status):
    body = json.dumps(GOOD).encode() if method == "POST" else None
    answer = server.ask(path, body, method=method, headers=headers)
    assert (answer.status, list(answer.json)) == (status, ["error"])


def test_no_field_reads_a_file(server, translator):
    for name in ("/etc/passwd", "file:///etc/passwd", "@/etc/passwd", "../../../etc/passwd"):
        plain = server.translate(name, split_sentences=False)
        assert plain["translatedText"] == translator.translate([name])[0]
        for field in ("source", "target", "format", "api_key"):
            assert b"root:" not in server.ask(body={**GOOD, field: name}).body
        form = urlencode({**GOOD, "q": name, "split_sentences": "false"}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert server.ask(body=form, headers=headers).json == plain


def test_what_is_no_http_is_survived(server):
    for sent in (b"\0" * 100, b"POST /translate HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"G"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANGS) as connection:
            connection.sendall(sent)
    assert server.ask("/health").status == 200


def test_a_client_that_leaves_is_not_waited_for(server):
    before = server.metric("fairseq_mem_left_total")
    body = json.dumps({**GOOD, "q": GERMAN * 9, "beam": 16}).encode()
    head = f"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for part in (body, body[:100]):  # before the answer; in the middle of the body
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANGS) as connection:
            connection.sendall(head + part)
    assert server.translate("eins.")["translatedText"]
    for _ in range(HANGS):
        if server.metric("fairseq_mem_left_total") == before + 2:
            break
        threading.Event().wait(0.1)
    else:
        raise AssertionError("it did not notice")
    assert server.metric("fairseq_mem_queue_sentences") == 0
    assert server.metric("fairseq_mem_requests_under_way") == 0


# ---------------------------------------------------------------- limits that are asked for


def test_smaller_limits_and_keys(translator_files, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("first\n\n second \n")
    limits = (
        "--max-body-bytes", 300, "--max-sentences", 2, "--max-sentence-tokens", 20,
        "--request-seconds", 2, "--no-split", "--api-key-file", keys,
    )  # fmt: skip
    with Server(translator_files.exported, *limits, "--threads", 1) as server:

        def status(q, **fields):
            return server.ask(body={**GOOD, "q": q, "api_key": "second", **fields}).status

        assert status("Eins. Zwei. Drei.") == 200  # one sentence
        assert status("Eins. Zwei. Drei.", split_sentences=True) == 422
        assert status("eins\nzwei\ndrei") == 422
        assert status("eins " * 19) == 200 and status("eins " * 20) == 422
        assert status("e" * 300) == 413
        assert status("eins", api_key="third") == 403
        answer = server.ask(body=GOOD)
        assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
        for key, expected in (("first", 200), ("wrong", 403)):
            headers = {"Authorization": f"Bearer {key}"}
            assert server.ask(body=GOOD, headers=headers).status == expected
        connection = server.connect()  # a body that never comes
        connection.putrequest("POST", "/translate")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        assert connection.getresponse().status == 408
        connection.close()
        assert "first" not in server.log and "second" not in server.log.replace("seconds", "")
        keys.write_text("new\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("loaded again")
        assert status("eins", api_key="first") == 403 and status("eins", api_key="new") == 200


# ---------------------------------------------------------------- a life


def test_a_supervisor_is_told_when_it_is_ready(translator_files, tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(HANGS)
        with Server(translator_files.exported, environment={"NOTIFY_SOCKET": path}) as server:
            assert notify.recv(100) == b"READY=1"
            assert server.ask("/health").status == 200


def test_a_broken_or_replaced_folder_leaves_the_old_model(translator_files, tmp_path, translator):
    folder = tmp_path / "exported"
    shutil.copytree(translator_files.exported, folder)
    expected = translator.translate(GERMAN[:3])
    with Server(folder, "--threads", 1) as server:

        def reload(says):
            server.process.send_signal(signal.SIGHUP)
            line = server.wait_for("again")
            line = server.wait_for("again")
            assert says in line, line
            assert server.translate(GERMAN[:3])["translatedText"] == expected

        (folder / "model.bin").write_bytes(b"\0" * 1000)
        assert server.translate(GERMAN[:3])["translatedText"] == expected
        reload("CTranslate2 cannot load")
        shutil.rmtree(folder)
        reload("holds no exported model")
        shutil.copytree(translator_files.exported, folder)
        reload("was loaded again")
        assert server.metric('fairseq_mem_reloads_total{result="failed"}') == 2
        assert server.metric('fairseq_mem_reloads_total{result="loaded"}') == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_what_is_under_way_is_finished(translator_files, number):
    with Server(translator_files.exported, "--threads", 1) as server:
        idle = server.connect()
        idle.request("GET", "/health")
        idle.getresponse().read()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.translate, GERMAN * 3, beam=16)
            while server.metric("fairseq_mem_requests_under_way") == 0 and not answer.done():
                pass
            server.process.send_signal(number)
            server.wait_for("stopping")
            assert len(answer.result(HANGS)["translatedText"]) == 303
        assert server.process.wait(timeout=HANGS) == 0
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            idle.request("GET", "/health")
            idle.getresponse()
        with pytest.raises(ConnectionRefusedError):
            server.ask("/health")


def test_the_time_to_finish_is_limited(translator_files):
    options = ("--threads", 1, "--drain-seconds", 0, "--max-batch-tokens", 200)
    with Server(translator_files.exported, *options) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.ask, body={**GOOD, "q": GERMAN * 9, "beam": 16})
        while server.metric("fairseq_mem_requests_under_way") == 0 and not answer.done():
            pass
        assert server.stop() == 0
        assert answer.result(HANGS).status == 503
        assert "stopped" in answer.result(HANGS).json["error"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nowhere"], 1, "holds no exported model"),
        (["{model}", "{model}"], 1, "both translate de to en"),
        (["{model}", "--port", "{taken}"], 1, "cannot listen"),
        (["{model}", "--host", "no.such.host.invalid"], 1, "cannot listen"),
        (["{model}", "--api-key-file", "nowhere"], 1, "there is no such file"),
        (["{model}", "--api-key-file", "/dev/null"], 1, "there is no such file"),
        (["{model}", "--max-wait-ms", "-1"], 2, "-1 is not 0 or more"),
        (["{model}", "--threads", "0"], 2, "0 is not 1 or more"),
        ([], 2, "MODEL_DIR"),
    ],
)
def test_what_cannot_start_says_so_in_a_line(
    translator_files, silent_port, arguments, status, says
):
    filled = [a.format(model=translator_files.exported, taken=silent_port) for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_mem_serve.http", *filled],
        capture_output=True, text=True, timeout=HANGS, cwd=SERVE,
    )  # fmt: skip
    assert done.returncode == status and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_server_needs_neither_torch_nor_fairseq():
    names = "app, batching, interface, main, metrics, models, openapi, sentences, service"
    code = (
        f"from fairseq_mem_serve.http import {names}; import sys; "
        "print({'torch', 'fairseq', 'fairseq_mem'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SERVE)
    assert done.stdout == "set()\n", done.stderr
