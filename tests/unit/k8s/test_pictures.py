"""Pictures of dashboards: units, variables, and what is drawn of answers of a Prometheus."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from k8s.monitoring.pictures import Window, fill_in, in_unit, main
from tests.unit.k8s.dashboard_files import FILES

WINDOW = Window(1000, 1600, 30)


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (0.25, "percentunit", "25 %"),
        (90, "s", "1.5 min"),
        (0.5, "s", "0.5 s"),
        (7200, "s", "2 h"),
        (0, "bytes", "0 B"),
        (3 * 1024**3, "Bps", "3 GiB/s"),
        (61, "celsius", "61 °C"),
        (12.5, "suffix: samples/s", "12.5 samples/s"),
        (4, "none", "4"),
        (float("nan"), "s", "nan"),
    ],
)
def test_numbers_have_their_unit(value: float, unit: str, text: str) -> None:
    assert in_unit(value, unit) == text


def test_variables_are_filled_in() -> None:
    expression = 'rate(x{namespace="$namespace"}[$__rate_interval]) or y[$__range]'
    assert fill_in(expression, {"namespace": "team"}, WINDOW) == 'rate(x{namespace="team"}[120s]) or y[600s]'
    with pytest.raises(ValueError, match="needs --variable run=VALUE"):
        fill_in("x{$run}", {}, WINDOW)


class Answers(BaseHTTPRequestHandler):
    """Two series for every query over time, one for one of now."""

    def do_GET(self) -> None:
        label = {"pod": "demo-worker-0", "kind": "images"}
        if "query_range" in self.path:
            result = [
                {
                    "metric": label | {"pod": f"demo-worker-{one}"},
                    "values": [[at, str(one)] for at in (1000, 1300, 1600)],
                }
                for one in (1, 2)
            ]
        else:
            result = [{"metric": label, "value": [1600, "3"]}]
        body = json.dumps({"data": {"result": result}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def prometheus() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_panel_is_drawn_with_its_question(prometheus: str, tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    words = ["--start", "1000", "--end", "1600", "--variable", "namespace=team", "--variable", "run=demo"]
    file = FILES / "dashboards" / "run.json"
    main([str(file), prometheus, str(picture), *words])
    text = picture.read_text(encoding="utf-8")  # an SVG says in comments what its outlines write
    titles = [panel["title"] for panel in json.loads(file.read_text())["panels"]]
    assert [title for title in titles if f"<!-- {title} -->" not in text and len(title) < 30] == []
    assert "not by Grafana" in text and "no data" not in text
