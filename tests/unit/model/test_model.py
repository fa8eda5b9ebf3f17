"""What the golden numbers do not say about the model: layouts, invariances, initial weights, refusals."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import WindowAttention

from cclm.checkpoints.backbones import copy_parameters, load_xlm_roberta, read_swin
from cclm.checkpoints.initial import build_model
from cclm.checkpoints.published import (
    load_published,
    read_published_file,
    read_torch_file,
    to_published,
    write_published_file,
)
from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.errors import UserError
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.sequences import Sequences

GOLDEN = Path(__file__).parents[2] / "golden"
TEXT = TextConfig(vocab_size=997, hidden_size=128, num_heads=4, intermediate_size=256, max_positions=66, num_layers=12)
SWIN = VisionConfig(image_size=128, embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)
TINY = ModelConfig(vision=SWIN, text=TEXT, embed_dim=32)


@pytest.fixture(scope="module")
def model() -> CCLM:
    return build_model(TINY.model_copy(update={"weights": str(GOLDEN / "pretrained.th")})).eval()


def test_padding_changes_nothing(model: CCLM) -> None:
    ids = torch.randint(4, 997, (3, 11), generator=torch.Generator().manual_seed(0))
    short = Sequences(ids, torch.tensor([11, 7, 2]))
    images = model.encoders.encode_images(torch.randn(3, 3, 128, 128, generator=torch.Generator().manual_seed(1)))
    padded = Sequences(torch.cat([ids, torch.full((3, 9), 1)], dim=1), short.lengths)
    together = model.encoders.fuse(model.encoders.encode_text(short), Context(images))
    wider = model.encoders.fuse(model.encoders.encode_text(padded), Context(images))
    for row, length in enumerate((11, 7, 2)):
        torch.testing.assert_close(wider.data[row, :length], together.data[row, :length], rtol=1e-4, atol=1e-5)
        alone = Sequences(ids[row : row + 1, :length], torch.tensor([length]))
        single = model.encoders.fuse(model.encoders.encode_text(alone), Context(images.select(torch.tensor([row]))))
        torch.testing.assert_close(single.data[0], together.data[row, :length], rtol=1e-4, atol=1e-5)


def test_shared_images_equal_repeated_images(model: CCLM) -> None:
    text = Sequences(torch.randint(4, 997, (5, 8)), torch.tensor([8, 3, 5, 8, 4]))
    images = model.encoders.encode_images(torch.randn(2, 3, 128, 128))
    rows = torch.tensor([0, 1, 1, 0, 1])
    states = model.encoders.encode_text(text)
    shared = model.encoders.fuse(states, Context(images, rows))
    repeated = model.encoders.fuse(states, Context(images.select(rows)))
    torch.testing.assert_close(shared.data, repeated.data)


def test_fingerprints_are_equal_for_equal_texts_alone() -> None:
    lists = [[0, 5, 6, 2], [0, 6, 5, 2], [0, 5, 2], [0, 5, 6, 6, 2], [0, 1, 5, 6, 2], [0, 5, 6, 2]]
    # Ids of one batch, of a batch with more padding, and with another token as padding.
    longer = Sequences.from_lists([*lists, [0] * 30])
    for found in (longer.fingerprints()[:6], Sequences.from_lists(lists, pad_id=7).fingerprints()):
        assert torch.equal(found, Sequences.from_lists(lists).fingerprints())
        assert found[0] == found[5] and len(set(found.tolist())) == 5
    many = torch.cartesian_prod(*[torch.arange(12)] * 5)  # close neighbours, as sentences of one template are
    assert len(Sequences.full(many).fingerprints().unique()) == len(many) == 12**5
    # Computed apart, with Python's integers. Processes of one run must agree, whatever they run on.
    assert Sequences.full(torch.tensor([[0, 5, 6, 2]])).fingerprints().item() == -7929127699499672483


def test_concat_keeps_what_each_part_may_see() -> None:
    regions = Sequences(
        torch.randn(2, 5, 8), None, visible=torch.tensor([[True] * 5, [True, False, True, False, False]])
    )
    images = Sequences.full(torch.randn(1, 5, 8))
    texts = Sequences(torch.randn(1, 3, 8), torch.tensor([2]))
    mask = Sequences.concat([regions, images, texts]).padding_mask()
    assert mask.tolist() == [
        [True] * 5, [True, False, True, False, False], [True] * 5, [True, True, False, False, False],
    ]  # fmt: skip
    assert Sequences.concat([images, images]).padding_mask() is None


@pytest.mark.parametrize(
    "vision",
    [
        VisionConfig(architecture="clip_vit", image_size=64, patch_size=16, embed_dim=128, depths=(2,), num_heads=(4,)),
        VisionConfig(architecture="deit", image_size=64, patch_size=16, embed_dim=128, depths=(2,), num_heads=(4,)),
        VisionConfig(image_size=64, embed_dim=32, depths=(2, 2, 2), num_heads=(1, 2, 4), window_size=4),
    ],
)
def test_every_image_encoder_gives_one_state_a_patch_and_a_cls(vision: VisionConfig) -> None:
    model = CCLM(ModelConfig(vision=vision, text=TEXT, embed_dim=32)).eval()
    states = model.encoders.encode_images(torch.randn(2, 3, 64, 64))
    assert states.data.shape == (2, 1 + 16, 128)


def test_published_layout_there_and_back(model: CCLM, tmp_path: Path) -> None:
    published = read_published_file(GOLDEN / "pretrained.th")
    write_published_file(tmp_path / "again.th", to_published(model, num_text_layers=6), {"a": 1})
    again = read_published_file(tmp_path / "again.th")
    assert again.keys() == published.keys()
    for name, tensor in published.items():
        assert tensor.dtype == again[name].dtype and torch.equal(tensor, again[name]), name


def test_fresh_seed_decides_fresh_weights() -> None:
    one, same, other = (build_model(TINY, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.match_head[0].weight, same.match_head[0].weight)
    assert not torch.equal(one.match_head[0].weight, other.match_head[0].weight)


def test_xlm_roberta_as_safetensors_equals_the_bin(tmp_path: Path) -> None:
    folder = GOLDEN / "xlm-roberta-large"
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    state = {name: tensor.clone() for name, tensor in read_torch_file(folder / "pytorch_model.bin").items()}
    save_file(state, tmp_path / "model.safetensors")
    from_bin, from_safetensors = CCLM(TINY), CCLM(TINY)
    load_xlm_roberta(from_bin, TEXT, str(folder))
    load_xlm_roberta(from_safetensors, TEXT, str(tmp_path))
    words = from_bin.encoders.text_encoder.embeddings.word.weight
    assert torch.equal(words, from_safetensors.encoders.text_encoder.embeddings.word.weight)
    last = state["roberta.encoder.layer.23.output.dense.weight"]
    assert torch.equal(from_bin.encoders.fusion_encoder.layers[5].feed_forward.down.weight, last)


def test_swin_release_loads_at_another_resolution(model: CCLM, tmp_path: Path) -> None:
    """Microsoft's file has a classifier and buffers, and tables of its own window; ours wants window 2 at 64 px."""
    published = read_published_file(GOLDEN / "pretrained.th")
    release = {
        name.removeprefix("vision_encoder."): tensor
        for name, tensor in published.items()
        if name.startswith("vision_encoder.")
    }
    torch.save(
        {"model": release | {"head.weight": torch.zeros(5, 128), "head.bias": torch.zeros(5)}}, tmp_path / "s.pth"
    )
    larger = SWIN.model_copy(update={"image_size": 192, "window_size": 6})
    encoder = CCLM(ModelConfig(vision=larger, text=TEXT, embed_dim=32)).encoders.image_encoder
    copy_parameters(encoder, read_swin(encoder, str(tmp_path / "s.pth")))
    assert encoder.trunk.layers[0].blocks[0].attn.relative_position_bias_table.shape == (121, 1)
    proj = model.encoders.image_encoder.trunk.patch_embed.proj.weight
    assert torch.equal(encoder.trunk.patch_embed.proj.weight, proj)
    assert encoder(torch.randn(1, 3, 192, 192)).data.shape == (1, 37, 128)


class Evil:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_pickle_payload_is_refused_and_not_run(tmp_path: Path, protocol: str) -> None:
    trap, victim = tmp_path / "weights.th", tmp_path / "victim"
    content = {"model": {"temp": torch.ones(())}, "config": Evil(victim)}
    if protocol == "torch":
        torch.save(content, trap)
    else:
        trap.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="refused"):
        build_model(TINY.model_copy(update={"weights": str(trap)}))
    assert not victim.exists()


def test_weights_of_another_size_are_refused(model: CCLM, tmp_path: Path) -> None:
    state = to_published(model, num_text_layers=6)
    with pytest.raises(UserError, match=r"has shape \(997, 128\), the config asks for \(500, 128\)"):
        smaller = TINY.model_copy(update={"text": TEXT.model_copy(update={"vocab_size": 500})})
        load_published(CCLM(smaller), state, num_text_layers=6, source="x.th")
    with pytest.raises(UserError, match="lacks parameter temp"):
        load_published(CCLM(TINY), {k: v for k, v in state.items() if k != "temp"}, num_text_layers=6, source="x.th")
    with pytest.raises(UserError, match="vocab_size is 997"):
        load_xlm_roberta(CCLM(TINY), TEXT.model_copy(update={"vocab_size": 500}), str(GOLDEN / "xlm-roberta-large"))
    torn = tmp_path / "torn.th"
    torn.write_bytes((GOLDEN / "pretrained.th").read_bytes()[:5000])
    with pytest.raises(UserError, match="torn"):
        read_published_file(torn)


def test_no_weight_inside_windows_is_too_small_for_fast_products(model: CCLM) -> None:
    weights: list[torch.Tensor] = []
    encoder = model.encoders.image_encoder
    hooks = [
        module.softmax.register_forward_hook(lambda _, __, result: weights.append(result))
        for module in encoder.modules()
        if isinstance(module, WindowAttention)
    ]
    with torch.no_grad():
        encoder(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)))
    for hook in hooks:
        hook.remove()
    smallest = torch.finfo(torch.float32).tiny
    assert len(weights) == 8 and any((part == 0).any() for part in weights)
    assert not any(((part > 0) & (part < smallest)).any() for part in weights)
