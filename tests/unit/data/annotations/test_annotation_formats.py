"""IGLUE's own lines (tests/data/iglue, four a file), the formats of the published README, and what can be wrong."""

import json
import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from record_files import b64, jpeg

from cclm.config.files import load_config
from cclm.data.annotations import image_tables
from cclm.data.annotations.annotation_sets import MISSING_IMAGE, FewShot, ImageRef
from cclm.data.annotations.flickr import read_xflickrco
from cclm.data.annotations.gqa import read_answer_list, read_questions
from cclm.data.annotations.image_tables import find_images
from cclm.data.annotations.lists import read_retrieval_lists
from cclm.data.annotations.missing import missing_images
from cclm.data.annotations.nlvr import PairImageRoots, read_pairs
from cclm.data.annotations.read import languages_of, read_evaluation, read_training
from cclm.data.annotations.wit import NO_IMAGE, read_wit
from cclm.data.annotations.xvnli import read_xvnli
from cclm.errors import UserError

ROOT = Path(__file__).parents[4]
IGLUE = ROOT / "tests/data/iglue"
ROOTS = PairImageRoots(nlvr2="images/nlvr2", marvl="images/marvl-images", marvl_few_shot="images/marvl_fewshot")
FLICKR_ROOTS = {"flickr30k": "f30k", "coco": "val2014"}


def iglue(name: str) -> list[str]:
    return [str(IGLUE / name)]


def write(path: Path, records: list[Any] | str) -> list[str]:
    """Line-JSON, or text as it is."""
    text = records if isinstance(records, str) else "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    path.write_text(text, encoding="utf-8")
    return [str(path)]


# ------------------------------------------------------------------------------------------- IGLUE's files as they are


def test_xvnli() -> None:
    found = read_xvnli(iglue("XVNLI/annotations/ar/train_48.jsonl"), "images/flickr30k-images")
    lines = (IGLUE / "XVNLI/annotations/ar/train_48.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert found.dropped == {"no agreed label": 1} and len(found) == 3
    kept = [record for record in records if record["gold_label"] != "-"]
    numbers = {"contradiction": 0, "entailment": 1, "neutral": 2}
    assert [entry.label for entry in found.entries] == [numbers[record["gold_label"]] for record in kept]
    assert [entry.text for entry in found.entries] == [record["sentence2"] for record in kept]
    first = found.entries[0]
    assert first.image.url == f"images/flickr30k-images/{kept[0]['Flikr30kID']}.jpg"
    assert first.place.endswith("train_48.jsonl:1") and found.entries[-1].place.endswith(":4")


def test_gqa_and_xgqa_give_the_same_questions() -> None:
    answers = read_answer_list(*iglue("gqa/annotations/trainval_ans2label.json"))
    assert len(answers) == 1842 and answers[:2] == ["puddle", "soap"]
    listed = read_questions(iglue("gqa/annotations/testdev.json"), "images/gqa/", answers).entries[0]
    assert (listed.question_id, listed.image.url) == (201307251, "images/gqa/n161313.jpg")
    assert (listed.question, listed.answers) == ("Is it overcast?", ("no",))
    bengali = read_questions(iglue("xGQA/annotations/few_shot/bn/dev.json"), "images/gqa/", answers).entries[0]
    assert (bengali.question_id, bengali.image.url) == (201640614, "images/gqa/n235859.jpg")
    record = json.loads((IGLUE / "xGQA/annotations/few_shot/bn/dev.json").read_text())["201640614"]
    assert (bengali.question, bengali.answers) == (record["question"], ("women",))


def test_nlvr2_and_marvl_name_their_images() -> None:
    dev = read_pairs(iglue("nlvr2/annotations/dev.jsonl"), ROOTS).entries[0]
    assert dev.left.url == "images/nlvr2/dev/dev-850-0-img0.png" and dev.right.url.endswith("dev-850-0-img1.png")
    test = read_pairs(iglue("nlvr2/annotations/test.jsonl"), ROOTS).entries[0]
    assert test.left.url == "images/nlvr2/test1/test1-0-1-img0.png" and test.label == 0
    zero = read_pairs(iglue("marvl/zero_shot/annotations/marvl-tr.jsonl"), ROOTS).entries
    assert zero[0].left.url == "images/marvl-images/tr/images/42-Keman/42-9.jpg"
    assert zero[0].right.url == "images/marvl-images/tr/images/42-Keman/42-5.jpg"
    assert [entry.label for entry in zero[:2]] == [0, 1]
    few = read_pairs(iglue("marvl/few_shot/annotations/marvl-tr_train10x2.jsonl"), ROOTS).entries[0]
    assert few.left.url == "images/marvl_fewshot/tr/all/80-n-3.jpg"
    translated = read_pairs(iglue("marvl/zero_shot/annotations_machine-translate/marvl-tr_gmt.jsonl"), ROOTS).entries[0]
    assert (translated.left, translated.label) == (zero[0].left, 0) and translated.text.startswith("In the picture")


def test_nlvr2_training_images_are_in_folders(tmp_path: Path) -> None:
    line = {"sentence": "a dog", "label": "True", "identifier": "train-10171-0-0", "directory": 63}
    entry = read_pairs(write(tmp_path / "train.jsonl", [line]), ROOTS).entries[0]
    assert entry.left.url == "images/nlvr2/images/train/63/train-10171-0-img0.png" and entry.label == 1


def test_xflickrco_has_two_image_roots(tmp_path: Path) -> None:
    found = read_xflickrco(iglue("flickr30k/annotations/valid_ann.jsonl"), FLICKR_ROOTS)
    assert len(found.images) == 4 and found.image_of_text == [i for i in range(4) for _ in range(5)]
    assert found.images[0] == ImageRef("f30k/1018148011.jpg") and found.image_ids[0] == "1018148011"
    lines = [
        {"sentences": ["un", "...", ""], "id": "1", "img_path": "1.jpg"},
        {"sentences": ["", " "], "id": "2", "img_path": "2.jpg"},
        {"sentences": "deux", "id": 3, "img_path": "COCO_val2014_000000000003.jpg"},
    ]
    found = read_xflickrco(write(tmp_path / "test.jsonl", lines), FLICKR_ROOTS)
    assert [image.url for image in found.images] == ["f30k/1.jpg", "val2014/COCO_val2014_000000000003.jpg"]
    assert found.texts == ["un", "deux"] and found.image_of_text == [0, 1]
    assert found.dropped == {"empty caption": 4, "image without caption": 1}


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two tables of the Japanese test's images but the last; the first URL is in both, with different images."""
    lines = (IGLUE / "wit/annotations/test_ja.jsonl").read_text().splitlines()
    urls = [json.loads(line)["image_url"] for line in lines][:-1]
    folder = tmp_path / "tables"
    folder.mkdir()
    rows = [f"{url}\t{b64(jpeg(i))}\thttp://meta/{i}\n" for i, url in enumerate(urls)]
    (folder / "part-1.csv").write_text("".join(rows[1:]) + f"{urls[0]}\t{b64(jpeg(9))}")
    (folder / "part-0.csv").write_text(rows[0] + "\n")
    (folder / "readme.txt").write_text("no table")
    return folder


def test_wit_images_come_through_an_index(tables: Path) -> None:
    found = read_wit(iglue("wit/annotations/test_ja.jsonl"), [str(tables)])
    assert len(found) == 3 and found.dropped == {NO_IMAGE: 1} and found.uncleaned_if_empty
    assert [image.read() for image in found.images] == [jpeg(0), jpeg(1), jpeg(2)]
    sidecars = sorted(path.name for path in tables.iterdir() if path.suffix not in (".csv", ".txt"))
    assert sidecars == ["part-0.csv.urls", "part-1.csv.urls"]
    translated = read_wit(iglue("wit/annotations_machine-translate/test_ja_gmt.jsonl"), [str(tables)])
    assert translated.images == found.images and translated.texts[0] == "Luis Herrera"


def test_the_index_is_built_once_and_again_when_the_table_changes(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: Counter[str] = Counter()
    build = image_tables._build
    monkeypatch.setattr(image_tables, "_build", lambda table, size: (builds.update([table]), build(table, size))[1])
    index_dir = str(tmp_path / "indexes")
    url = json.loads((IGLUE / "wit/annotations/test_ja.jsonl").read_text().splitlines()[1])["image_url"]
    for _ in range(2):
        assert find_images([url, "http://nowhere"], [str(tables)], index_dir)[url].read() == jpeg(1)
    assert set(builds.values()) == {1} and not list(tables.glob("*.urls"))
    changed = tables / "part-1.csv"
    changed.write_text(f"{url}\t{b64(jpeg(5))}\n")
    assert find_images([url], [str(tables)], index_dir)[url].read() == jpeg(5)
    assert builds[str(changed)] == 2
    for sidecar in Path(index_dir).glob("part-1*.urls"):
        sidecar.write_bytes(b"torn")
    assert find_images([url], [str(tables)], index_dir)[url].read() == jpeg(5)
    changed.write_bytes(b"")
    assert find_images([url], [str(tables)], index_dir) == find_images([url], [str(tables)], index_dir) == {}


def _count_builds(table: str, log: str) -> None:
    build = image_tables._build

    def logged(table: str, size: int) -> Any:
        with open(log, "a") as file:
            file.write("built\n")
        return build(table, size)

    image_tables._build = logged
    image_tables.open_table(table)


def test_processes_that_start_together_build_an_index_once(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("".join(f"http://{i}\t{b64(jpeg(0))}\n" for i in range(2000)))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count_builds, args=(str(table), str(tmp_path / "log"))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "built\n" and not (tmp_path / "t.csv.urls.lock").exists()


def test_wit_captions_share_images_and_may_be_a_full_stop(tmp_path: Path) -> None:
    plain = b64(jpeg(3))
    escaped = plain.replace("/", "\\/")  # as some JSON writers have it
    lines = [
        f'{{"image_url": "{url}", "caption_reference_description": {caption}, "image_content" : "{content}"}}'
        for url, caption, content in (
            ("u", '"."', escaped), ("u", '"L&#39;un"', plain), ("v", '""', plain), ("v", "null", plain),
            ("v", '"  \\u200b"', plain),
        )
    ]  # fmt: skip
    found = read_wit(write(tmp_path / "train.jsonl", "\n".join(lines)), [])
    assert found.texts == [".", "L&#39;un"] and found.image_of_text == [0, 0] and found.image_ids == ["u"]
    assert found.images[0].read() == jpeg(3) and found.dropped == {"empty caption": 3}


# ------------------------------------------------------------------------------------ formats of the published README


def test_custom_questions_and_pairs(tmp_path: Path) -> None:
    shown = {"question_id": "05515938", "question": "What is this bird called?", "image": "2405722.jpg"}
    shown |= {"dataset": "gqa", "answer": "parrot"}
    for name, text in (("lines.jsonl", json.dumps(shown) + "\n\n" + json.dumps(shown)), ("one.json", json.dumps(shown)),
                       ("list.json", json.dumps([shown]))):  # fmt: skip
        entry = read_questions(write(tmp_path / name, text), "images/gqa", ["parrot"]).entries[-1]
        assert (entry.question_id, entry.image.url, entry.answers) == (5515938, "images/gqa/2405722.jpg", ("parrot",))
    weighted = {"img_id": 7, "label": {"yes": 0.3, "no": 0.9}, "question_id": "1", "sent": "Is it?"}
    entry = read_questions(write(tmp_path / "l.json", json.dumps([weighted])), "", ["no", "yes"]).entries[0]
    assert entry.answers == ("yes", "no") and entry.image.url == "7.jpg"
    pairs = [
        {"sentence": "左圖有鉛筆", "label": False, "images": ["images/marvl_official/zh/1.jpg", "images/marvl/2.jpg"]},
        {"sentence": "a dog", "label": "True", "images": ["dev/a.png", "dev/b.png"]},
    ]
    first, second = read_pairs(write(tmp_path / "p.json", json.dumps(pairs)), ROOTS).entries
    assert first.left.url == "images/marvl_official/zh/1.jpg" and first.label == 0
    assert second.right.url == "images/nlvr2/dev/b.png" and second.label == 1


def test_captions_of_one_image_share_it_across_lists(tmp_path: Path) -> None:
    english = [{"caption": c, "image": "a.jpg", "image_id": 5} for c in ("one", "two")]
    german = [
        {"caption": "eins", "image": "a.jpg", "image_id": 5},
        {"caption": "vier", "image": "b.jpg", "image_id": 6},
    ]
    files = write(tmp_path / "en.json", json.dumps(english)) + write(tmp_path / "de.json", json.dumps(german))
    found = read_retrieval_lists(files, "images/")
    assert found.image_ids == [5, 6] and found.image_of_text == [0, 0, 0, 1]
    assert found.image_places[1].endswith("de.json, entry 1")


# ---------------------------------------------------------------------------------------------------------- bad input

XVNLI = {"Flikr30kID": "1", "gold_label": "neutral", "sentence2": "a dog"}
PAIR = {"sentence": "a dog", "label": "True", "identifier": "dev-1-0-0"}
QUESTION = {"img_id": "1", "question_id": "1", "sent": "Is it?", "label": {"yes": 1.0}}
SENTENCES = {"sentences": ["a dog"], "id": "1", "img_path": "1.jpg"}
WIT = {"image_url": "u", "caption_reference_description": "a dog"}

READERS = {
    "xvnli": lambda paths: read_xvnli(paths, "images"),
    "pairs": lambda paths: read_pairs(paths, ROOTS),
    "questions": lambda paths: read_questions(paths, "images", ["yes"]),
    "sentences": lambda paths: read_xflickrco(paths, FLICKR_ROOTS),
    "wit": lambda paths: read_wit(paths, []),
}

WRONG = [
    ("xvnli", XVNLI, {"gold_label": "neutrel"}, ':2: gold_label is "neutrel", which is none of contradiction, entail'),
    ("xvnli", XVNLI, {"sentence2": " ."}, ":2: sentence2 is empty"),
    ("xvnli", XVNLI, {"sentence2": "\u200b \ufeff"}, ":2: sentence2 is empty"),  # a tokenizer would see nothing
    ("xvnli", XVNLI, {"sentence2": None}, ":2: sentence2 has to be a text, but it is null"),
    ("xvnli", XVNLI, {"Flikr30kID": ""}, ":2: Flikr30kID has to be a name"),
    ("pairs", PAIR, {"label": "maybe"}, ':2: label has to be true or false, but it is "maybe"'),
    ("pairs", PAIR, {"label": 1}, ":2: label has to be true or false, but it is 1"),
    ("pairs", PAIR, {"sentence": "?"}, ":2: sentence is empty"),
    ("pairs", PAIR, {"identifier": "dev-1"}, ":2: identifier is 'dev-1', but like dev-850-0-0 is expected"),
    ("pairs", {"sentence": "a", "label": "True", "images": ["a", "b"]}, {"images": ["a"]}, ":2: images has to name a"),
    ("questions", QUESTION, {"label": {"perhaps": 1.0}}, "the answer 'perhaps' is not among the 1 of data.answer_list"),
    ("questions", QUESTION, {"label": {}}, "label has to be an object {answer: weight}, but it is {}"),
    ("questions", QUESTION, {"sent": " "}, "sent is empty"),
    ("questions", QUESTION, {"question_id": "q7"}, 'question_id has to be a number, but it is "q7"'),
    ("questions", QUESTION, {"question_id": "7" * 5000}, "question_id has to be a number, but it is"),
    ("sentences", SENTENCES, {"img_path": ""}, ":2: img_path has to be a name"),
    ("sentences", SENTENCES, {"sentences": "no", "id": True}, ":2: id has to be a name, but it is true"),
    ("sentences", SENTENCES, {"sentences": [1]}, ":2: sentences has to be a text or a list of texts, but it is [1]"),
    ("wit", WIT | {"image_content": "AA=="}, {"image_content": ""}, ":2: no image_content here, and data.image_tables"),
    ("wit", WIT | {"image_content": "AA=="}, {"image_url": 3}, ":2: image_url has to be a text"),
]


@pytest.mark.parametrize(("kind", "good", "change", "sentence"), WRONG, ids=[row[3][:50] for row in WRONG])
def test_a_wrong_annotation_is_named(
    tmp_path: Path, kind: str, good: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    records = [good, good | change]
    text = json.dumps(records) if kind == "questions" else records
    with pytest.raises(UserError) as caught:
        READERS[kind](write(tmp_path / "file.json", text))
    assert sentence in str(caught.value) and str(caught.value).startswith(str(tmp_path / "file.json"))
    if kind == "questions":
        assert "file.json, entry 1: " in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
def test_broken_json_a_missing_key_and_a_missing_file(tmp_path: Path, kind: str) -> None:
    for text, sentence in (
        ('{"a": 1}\n{"a": \n', "is missing; the record has a"),
        ('{"a": ', "not JSON" if kind != "questions" else "not a JSON file"),
        ("[1]\n", "object"),
        ("", "no annotation" if kind != "questions" else "not a JSON file"),
    ):
        with pytest.raises(UserError) as caught:
            READERS[kind](write(tmp_path / "bad.jsonl", text))
        if kind == "wit" and "missing" in sentence:  # there, the first line is dropped: it has no caption
            sentence = ":2: not JSON"
        assert sentence in str(caught.value), (text, str(caught.value))
        assert "bad.jsonl" in str(caught.value)
    with pytest.raises(UserError, match="none.jsonl does not exist; correct the path"):
        READERS[kind]([str(tmp_path / "none.jsonl")])
    (tmp_path / "none.jsonl.zip").write_bytes(b"")
    with pytest.raises(UserError, match="unpack none.jsonl.zip"):
        READERS[kind]([str(tmp_path / "none.jsonl")])


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.image_tables: .*nowhere does not exist"):
        find_images(["u"], [str(tmp_path / "nowhere")])
    (tmp_path / "a.csv.gz").write_bytes(b"")
    with pytest.raises(UserError, match="holds no .csv file; unpack .*a.csv.gz"):
        find_images(["u"], [str(tmp_path)])
    (tmp_path / "a.csv").write_text("http://u\tAA==\nno tab here\n")
    with pytest.raises(UserError, match="a.csv, byte 14: no tab"):
        find_images(["u"], [str(tmp_path)])


def test_a_missing_image_is_named_or_skipped_and_counted(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(jpeg(0))
    entries = [{"image": f"{i}.jpg", "caption": ["a", "b"], "image_id": i} for i in (1, 3, 2)]
    found = read_retrieval_lists(write(tmp_path / "l.json", json.dumps(entries)), str(tmp_path))
    with pytest.raises(UserError, match=r"l.json, entry 1: the image .*/3.jpg does not exist \(1 of 3 images are miss"):
        missing_images(found, "error")
    kept = missing_images(found, "skip")
    assert kept.image_ids == [1, 2] and kept.image_of_text == [0, 0, 1, 1] and kept.dropped == {MISSING_IMAGE: 1}
    assert missing_images(kept, "error") is kept
    pairs = [{"sentence": "a", "label": True, "images": ["1.jpg", right]} for right in ("2.jpg", "4.jpg")]
    roots = PairImageRoots(nlvr2=str(tmp_path), marvl="", marvl_few_shot="")
    read = read_pairs(write(tmp_path / "p.json", json.dumps(pairs)), roots)
    assert len(missing_images(read, "skip")) == 1
    xvnli = read_xvnli(write(tmp_path / "x.jsonl", [XVNLI | {"Flikr30kID": str(i)} for i in range(40)]), str(tmp_path))
    kept_entries = missing_images(xvnli, "skip")
    assert len(kept_entries) == 2 and kept_entries.dropped == {MISSING_IMAGE: 38}
    for odd in ("a\0b", "a\ud800"):  # JSON can write names that no file has
        (tmp_path / "odd.jsonl").write_text(json.dumps(XVNLI | {"Flikr30kID": odd}))
        xvnli = read_xvnli([str(tmp_path / "odd.jsonl")], str(tmp_path))
        with pytest.raises(UserError, match=r"odd.jsonl:1: the image .* does not exist"):
            missing_images(xvnli, "error")
    (tmp_path / "5.jpg").mkdir()
    folder = write(tmp_path / "f.json", json.dumps([{"image": "5.jpg", "caption": "a"}]))
    with pytest.raises(UserError, match=r"f.json, entry 0: the image .*/5.jpg does not exist"):
        missing_images(read_retrieval_lists(folder, str(tmp_path)), "error")
    with pytest.raises(UserError, match="nor does any other"):
        missing_images(read_xvnli(iglue("XVNLI/annotations/en/test.jsonl"), str(tmp_path)), "skip")


# ---------------------------------------------------------------------------------------------- by a config, few-shot


@pytest.fixture
def few_shot_config(tmp_path: Path) -> Path:
    for language in ("ar", "fr"):
        folder = tmp_path / "xvnli" / language
        folder.mkdir(parents=True)
        for name in ("train_1", "train_48", "train_5", "test"):
            write(folder / f"{name}.jsonl", [XVNLI | {"sentence2": f"{language} {name}"}])
    path = tmp_path / "few.yaml"
    path.write_text(
        f"base: {ROOT}/configs/model/laptop.yaml\ntask: classification\ndata:\n"
        f"  train_files: '{tmp_path}/xvnli/{{language}}/train_{{shots}}.jsonl'\n"
        f"  validation_files: {{'{{language}}': '{tmp_path}/xvnli/{{language}}/test.jsonl'}}\n"
    )
    return path


def test_few_shot_files_are_filled_in(few_shot_config: Path) -> None:
    config, shots = load_config(few_shot_config), FewShot.parse("ar, 48")
    assert read_training(config, shots).entries[0].text == "ar train_48"
    assert languages_of(config, "validation", shots) == ["ar"] and languages_of(config, "test", shots) == []
    assert read_evaluation(config, "validation", "ar", shots).entries[0].text == "ar test"


@pytest.mark.parametrize(
    ("fewshot", "sentence"),
    [
        (None, "this is a few-shot config; say for which language with --fewshot"),
        ("ar,7", "there are no 7 shots for ar, but 1, 5, 48: "),
        ("ar", "say how many shots, one of 1, 5, 48"),
        ("sw,5", "no annotations for language sw; there are some for ar, fr: "),
    ],
)
def test_few_shot_files_that_are_not_there(few_shot_config: Path, fewshot: str | None, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read_training(load_config(few_shot_config), FewShot.parse(fewshot) if fewshot else None)
    assert sentence in str(caught.value)


def test_wrong_uses_of_fewshot(few_shot_config: Path, tmp_path: Path) -> None:
    for text in ("", ",48", "ar,", "ar,48,3", "../ar,48"):
        with pytest.raises(UserError, match="give a language and a number of shots"):
            FewShot.parse(text)
    fixed = load_config(few_shot_config, [f"data.train_files='{tmp_path}/xvnli/{{language}}/train_5.jsonl'"])
    assert read_training(fixed, FewShot("fr")).entries[0].text == "fr train_5"
    with pytest.raises(UserError, match="--fewshot fr,48: the number of shots is fixed by data.train_files"):
        read_training(fixed, FewShot("fr", "48"))
    plain = load_config(
        few_shot_config, ["data.train_files=a", "data.validation_files={en: a}", "data.test_files={en: a}"]
    )
    with pytest.raises(UserError, match="--fewshot fr needs a few-shot config"):
        read_training(plain, FewShot("fr"))
    with pytest.raises(UserError, match="data.test_files has no file for language sw; those with one: en"):
        read_evaluation(plain, "test", "sw")
