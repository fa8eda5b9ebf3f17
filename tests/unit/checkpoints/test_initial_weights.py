"""Weights that do not serve are refused before the model is built."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cclm.checkpoints import initial
from cclm.checkpoints.find import find_checkpoint
from cclm.checkpoints.initial import build_model, restore_model
from cclm.checkpoints.published import read_published_file, to_published
from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.errors import UserError
from cclm.model.cclm import CCLM
from tests.checkpoint_files import save_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
TEXT = TextConfig(vocab_size=997, hidden_size=128, num_heads=4, intermediate_size=256, max_positions=66, num_layers=12)
SWIN = VisionConfig(image_size=128, embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)
VIT = VisionConfig(architecture="deit", image_size=64, patch_size=16, embed_dim=128, depths=(1,), num_heads=(4,))
XLM_ROBERTA = GOLDEN / "xlm-roberta-large"


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/never"),))


@pytest.fixture
def built(monkeypatch) -> list[nn.Module]:
    """Models that were built with memory for their parameters."""
    models = []

    class Counted(CCLM):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__(config)
            if any(parameter.device.type != "meta" for parameter in self.parameters()):
                models.append(self)

    monkeypatch.setattr(initial, "CCLM", Counted)
    return models


def config(
    *, vision: str | Path | None = None, text: str | Path | None = None, whole: str | Path | None = None, **sizes
):
    paths = [None if path is None else str(path) for path in (vision, text, whole)]
    encoder = sizes.pop("encoder", SWIN)
    return ModelConfig(
        vision=encoder.model_copy(update={"weights": paths[0]}),
        text=TEXT.model_copy(update={"weights": paths[1], **sizes}),
        embed_dim=32,
        weights=paths[2],
    )


def trunk() -> dict[str, torch.Tensor]:
    published = read_published_file(GOLDEN / "pretrained.th")
    start = "vision_encoder."
    return {name.removeprefix(start): tensor for name, tensor in published.items() if name.startswith(start)}


def swin_file(path: Path, **changes: torch.Tensor) -> Path:
    torch.save({"model": trunk() | changes}, path)
    return path


def refused(config: ModelConfig, built: list[nn.Module]) -> str:
    with pytest.raises(UserError) as caught:
        build_model(config)
    assert built == []
    return str(caught.value)


def test_good_weights_of_both_encoders_are_loaded(built, tmp_path):
    model = build_model(config(vision=swin_file(tmp_path / "swin.pth"), text=XLM_ROBERTA))
    assert built == [model]
    assert torch.equal(model.encoders.image_encoder.trunk.patch_embed.proj.weight, trunk()["patch_embed.proj.weight"])
    given = torch.load(XLM_ROBERTA / "pytorch_model.bin", weights_only=True)
    words = model.encoders.text_encoder.embeddings.word.weight
    assert torch.equal(words, given["roberta.embeddings.word_embeddings.weight"])
    assert torch.equal(model.token_head.bias, given["lm_head.bias"])


def test_vit_positions_are_resampled_on_the_way(built, tmp_path):
    larger = VIT.model_copy(update={"image_size": 96})
    state = CCLM(config(encoder=larger)).encoders.image_encoder.trunk.state_dict()
    torch.save(state, tmp_path / "vit.pth")
    trunk = build_model(config(encoder=VIT, vision=tmp_path / "vit.pth")).encoders.image_encoder.trunk
    assert trunk.pos_embed.shape == (1, 17, 128)
    assert torch.equal(trunk.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])
    torch.save(state | {"pos_embed": torch.zeros(1, 6, 128)}, tmp_path / "odd.pth")
    assert "pos_embed has shape (1, 6, 128)" in refused(config(encoder=VIT, vision=tmp_path / "odd.pth"), built[1:])


def test_pickles(built, tmp_path):
    torch.save({"model": {"temp": Trap()}}, tmp_path / "evil.th")
    for which in ("vision", "whole"):
        assert "refused" in refused(config(**{which: tmp_path / "evil.th"}), built)


def test_torn_and_other_files(built, tmp_path):
    whole = (GOLDEN / "pretrained.th").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no weights", whole[:1000] + bytes(len(whole) - 1000)):
        (tmp_path / "torn.th").write_bytes(content)
        message = refused(config(whole=tmp_path / "torn.th"), built)
        assert f"torn.th: not a whole file of tensors ({len(content):,} bytes); fetch it anew" in message


def test_files_of_old_versions_of_torch_that_were_cut_off(built, tmp_path):
    torch.save({"model": trunk()}, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.th").read_bytes()
    for size in range(1, 1200):  # also within names of what is allowed, which then look like others
        (tmp_path / "cut.th").write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"cut\.th: not a whole file of tensors \({size:,} bytes\); fetch it anew"):
            read_published_file(tmp_path / "cut.th")
    torch.save({"model": {"temp": Trap()}}, tmp_path / "evil.th", _use_new_zipfile_serialization=False)
    assert "refused and not run" in refused(config(whole=tmp_path / "evil.th"), built)


def test_fine_tuned_models_are_named_as_such(built, tmp_path):
    model = CCLM(config())
    optimizer = torch.optim.AdamW([{"params": [model.space.temperature], "names": ["space.temperature"]}])
    made = {"config": {"task": "retrieval", "model": config().model_dump(mode="json")}}
    folder = save_checkpoint(tmp_path, 1, model, optimizer, made)
    message = f"{folder} was fine-tuned for retrieval, but a pre-trained model is wanted here; use a config of its task"
    assert message in refused(config(whole=folder), built)
    with pytest.raises(UserError, match=message):
        restore_model(config(), find_checkpoint(folder))
    names = to_published(model, num_text_layers=6)
    state = {name.replace(".bert.", "."): tensor for name, tensor in names.items()}
    torch.save({"model": state}, tmp_path / "tuned.th")
    message = refused(config(whole=tmp_path / "tuned.th"), built)
    assert "tuned.th are of a fine-tuned model, but a pre-trained model is wanted here" in message


def test_folders_without_a_checkpoint(built, tmp_path):
    message = refused(config(whole=tmp_path), built)
    assert (
        f"{tmp_path} is no checkpoint" in message and "Give a checkpoint's folder" in message and ".th file" in message
    )


def test_missing_files(built, tmp_path):
    for which, sentence in (("vision", "no such file"), ("whole", "no such file"), ("text", "no config.json there")):
        assert sentence in refused(config(**{which: tmp_path / "absent"}), built)
    shutil.copy(XLM_ROBERTA / "config.json", tmp_path)
    assert "neither model.safetensors nor" in refused(config(text=tmp_path), built)


def test_swin_of_another_size(built, tmp_path):
    wide = swin_file(tmp_path / "wide.pth", **{"patch_embed.proj.weight": torch.zeros(32, 3, 4, 4)})
    assert "patch_embed.proj.weight has shape (32, 3, 4, 4)" in refused(config(vision=wide), built)
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    for shape in ((48,), (48, 1), (4, 1), (121, 7)):  # nothing that a window of another size would have
        odd = swin_file(tmp_path / "odd.pth", **{table: torch.zeros(shape)})
        assert f"{table} has shape {shape}" in refused(config(vision=odd), built)
    torch.save({"model": {"patch_embed.proj.weight": 3}}, tmp_path / "number.pth")
    assert "expected" in refused(config(vision=tmp_path / "number.pth"), built)


def test_xlm_roberta_of_another_size(built):
    assert "vocab_size is 997" in refused(config(text=XLM_ROBERTA, vocab_size=500), built)
    assert "position_embeddings.weight has shape" in refused(config(text=XLM_ROBERTA, max_positions=400), built)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"{", "not a readable JSON file"), (b"\xff\xfe{", "not a readable JSON file"), (b"[1]", "expected an object")],
)
def test_xlm_roberta_with_an_unreadable_config(built, tmp_path, content, sentence):
    (tmp_path / "config.json").write_bytes(content)
    message = refused(config(text=tmp_path), built)
    assert f"{tmp_path}/config.json" in message and sentence in message


def test_whole_models_of_another_size(built, tmp_path):
    message = refused(config(whole=GOLDEN / "pretrained.th", vocab_size=500), built)
    assert "has shape (997, 128), the config asks for (500, 128)" in message
    model = CCLM(config())
    optimizer = torch.optim.AdamW([{"params": [model.space.temperature], "names": ["space.temperature"]}])
    made = {"config": {"model": config().model_dump(mode="json")}}
    folder = save_checkpoint(tmp_path, 1, model, optimizer, made)
    with pytest.raises(UserError, match=r"does not fit this model.* \(model.text.vocab_size was 997 and is 500\)"):
        restore_model(config(vocab_size=500), find_checkpoint(folder))
    assert "does not fit this model" in refused(config(whole=folder, vocab_size=500), built)
    again = build_model(config(whole=folder))
    assert torch.equal(again.match_head[0].weight, model.match_head[0].weight)


def test_weights_by_url(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "a.th")
    assert torch.equal(read_published_file(f"file://{tmp_path}/a.th")["a"], torch.ones(2))
    with pytest.raises(UserError, match=f"weights file://{tmp_path}/b.th: no such file"):
        read_published_file(f"file://{tmp_path}/b.th")


def test_published_weights_come_from_any_store(built):
    import fsspec

    fsspec.filesystem("memory").pipe_file("/there/pretrained.th", (GOLDEN / "pretrained.th").read_bytes())
    near, far = (read_published_file(place) for place in (GOLDEN / "pretrained.th", "memory://there/pretrained.th"))
    assert near.keys() == far.keys() and all(torch.equal(near[name], far[name]) for name in near)
    with pytest.raises(UserError, match="memory://there/absent.th: no such file"):
        read_published_file("memory://there/absent.th")


# ----------------------------------------------------------------------------------------- other ways to store weights


def xlm_roberta_state() -> dict[str, torch.Tensor]:
    return torch.load(XLM_ROBERTA / "pytorch_model.bin", weights_only=True)


def folder_with(folder: Path, state: dict[str, torch.Tensor], kind: str) -> Path:
    """An XLM-R folder that holds `state` in two files with an index, or in one."""
    folder.mkdir()
    shutil.copy(XLM_ROBERTA / "config.json", folder)
    save = {"safetensors": save_file, "bin": torch.save}
    if kind in save:
        start, end = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
        names = sorted(state)
        parts = {f"{start}-0000{i + 1}-of-00002.{end}": names[i::2] for i in range(2)}
        for file, part in parts.items():
            save[kind]({name: state[name].clone() for name in part}, folder / file)
        index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
        (folder / f"{start}.{end}.index.json").write_text(json.dumps(index))
    else:
        torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_text_weights_in_several_files_are_those_in_one(tmp_path, kind):
    state = {name: tensor for name, tensor in xlm_roberta_state().items() if not name.endswith("decoder.weight")}
    folder = folder_with(tmp_path / "xlmr", state, kind)
    assert_equal_models(build_model(config(text=folder)), build_model(config(text=XLM_ROBERTA)))
    shard = next(folder.glob("*00002-of-00002*"))
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}, which it names, is not there"):
        build_model(config(text=folder))


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"weight_map": {"a": "../other"}}'])
def test_an_index_that_is_none(tmp_path, content):
    folder = folder_with(tmp_path / "xlmr", {}, "bin")
    (folder / "pytorch_model.bin.index.json").write_text(content)
    with pytest.raises(UserError, match="not an index of weights|is not there"):
        build_model(config(text=folder))


def test_an_encoder_without_head_is_loaded_and_the_head_is_said_to_be_fresh(tmp_path, caplog):
    """XLMRobertaModel, which has a pooler and names without `roberta.`."""
    state = {
        name.removeprefix("roberta."): tensor
        for name, tensor in xlm_roberta_state().items()
        if name.startswith("roberta.")
    }
    bare = build_model(config(text=folder_with(tmp_path / "xlmr", state | {"pooler.dense.bias": torch.ones(3)}, "one")))
    assert "have no head that predicts masked tokens" in caplog.text
    whole, fresh = build_model(config(text=XLM_ROBERTA)), build_model(config())
    assert_equal_models(bare.encoders, whole.encoders)
    assert_equal_models(bare.token_head, fresh.token_head)
    assert not torch.equal(whole.token_head.bias, fresh.token_head.bias)


def test_names_that_data_parallel_training_has_wrapped(tmp_path):
    def wrapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"module.{name}": tensor for name, tensor in state.items()}

    torch.save({"model": wrapped(read_published_file(GOLDEN / "pretrained.th"))}, tmp_path / "whole.th")
    torch.save({"model": wrapped(trunk())}, tmp_path / "swin.pth")
    folder = folder_with(tmp_path / "xlmr", wrapped(xlm_roberta_state()), "one")
    assert read_published_file(tmp_path / "whole.th").keys() == read_published_file(GOLDEN / "pretrained.th").keys()
    assert_equal_models(
        build_model(config(vision=tmp_path / "swin.pth", text=folder)),
        build_model(config(vision=swin_file(tmp_path / "plain.pth"), text=XLM_ROBERTA)),
    )


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_swin_in_timms_layout(tmp_path, kind):
    """Patches are merged at the start of a stage there, at the end of the one before in Microsoft's files."""
    expected = build_model(config(vision=swin_file(tmp_path / "swin.pth")))
    state = {name: tensor.clone() for name, tensor in expected.encoders.image_encoder.trunk.state_dict().items()}
    assert any(name.startswith("layers.1.downsample.") for name in state)
    state["head.fc.weight"] = torch.zeros(2, 2)
    path = tmp_path / f"timm.{kind}"
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    found = build_model(config(vision=path))
    assert_equal_models(found.encoders.image_encoder, expected.encoders.image_encoder)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_file_with_a_newer_pickle_protocol_is_named_as_such(built, tmp_path, protocol):
    path = tmp_path / "new.pth"
    torch.save({"model": trunk()}, path, pickle_protocol=protocol)
    sentence = refused(config(vision=path), built)
    assert f"saved with pickle protocol {protocol}" in sentence and "save it again with torch.save" in sentence
    torch.save({"model": trunk()}, path, pickle_protocol=3)
    assert build_model(config(vision=path)) is not None


def assert_equal_models(one: nn.Module, other: nn.Module) -> None:
    """Equal names and numbers."""
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
