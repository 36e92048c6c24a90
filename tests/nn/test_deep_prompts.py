"""Class tokens and prompted text features against the published ones, and the cut text tower."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from golden_names import renamed
from golden_names_iqe import CLASS_TOKENS, renamed_prompts
from golden_parity import assert_parity, weights
from scanomaly.nn.deep_prompts import ClassTokens, DeepPrompts, PromptedText

LAYERS = {
    "attn.in_proj_weight": "self_attn.in_proj_weight",
    "attn.in_proj_bias": "self_attn.in_proj_bias",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "mlp.c_fc": "linear1",
    "mlp.c_proj": "linear2",
}
PARTS = ("deep1", "shallow")


class Tower(nn.Module):
    """CLIP's text side from torch's own layers, with the embeddings of a few ids."""

    def __init__(self, state: dict[str, Tensor], ids: Tensor) -> None:
        super().__init__()
        self.state, self.ids = state, ids.tolist()
        self.positions = state["positional_embedding"]
        self.longest = self.begun = 0
        depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer."))
        self.blocks = nn.ModuleList(self._layer(index) for index in range(depth))
        self.eval()

    def _layer(self, index: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(
            32, 4, 128, activation="gelu", batch_first=True, norm_first=True
        )
        own = weights(self.state, f"transformer.resblocks.{index}.")
        layer.load_state_dict(renamed(own, LAYERS))
        return layer

    def embed(self, ids: Tensor) -> Tensor:
        rows = [[self.ids.index(i) for i in sentence] for sentence in ids.tolist()]
        return self.state["token_embedding.rows"][torch.tensor(rows)]

    def run(self, sequence, *, after_block):
        self.longest = max(self.longest, sequence.shape[1])
        causal = nn.Transformer.generate_square_subsequent_mask(sequence.shape[1])
        for index, block in enumerate(self.blocks):
            sequence = block(sequence, src_mask=causal)
            if after_block is not None:
                sequence = after_block(index, sequence)
        return sequence

    def begin(self, sequence, live, *, after_block):
        self.begun += 1
        return sequence, live, after_block

    def resume(self, rows, beginning):
        """Every sentence of every image alone, from its first row on."""
        sequence, live, after_block = beginning
        found = torch.zeros_like(rows)
        for image in range(rows.shape[0]):
            for index, behind in enumerate(rows[image]):
                whole = torch.cat([sequence[index][live[index]], behind])[None]
                read = self.run(whole, after_block=after_block)
                found[image, index] = read[0, -len(behind) :]
        return found

    def finish(self, rows):
        scale, shift = self.state["ln_final.weight"], self.state["ln_final.bias"]
        return F.layer_norm(rows, (32,), scale, shift) @ self.state["text_projection"]


def ids_of(table: dict[str, Tensor]) -> Tensor:
    return torch.stack([table["in.tokens.normal"], table["in.tokens.abnormal"]]).long()


def published(table: dict[str, Tensor], part: str) -> tuple[PromptedText, Tower]:
    state = weights(table)
    prompts = None
    if part == "deep1":
        prompts = DeepPrompts(32, 1, 3)
        prompts.load_state_dict(renamed_prompts(state))
    return PromptedText(ids_of(table), prompts), Tower(state, table["token_ids"])


@pytest.fixture(params=PARTS)
def part(request) -> str:
    return request.param


@pytest.fixture
def table(golden, part) -> dict[str, Tensor]:
    return load_file(golden(f"iqe_text_{part}.safetensors"))


def test_published_text_features(table, part):
    text, tower = published(table, part)
    assert_parity(text(tower, table["in.class_tokens"]), table["out.text_features"])


def test_text_is_cut_after_the_last_live_row(table, part):
    text, tower = published(table, part)
    text(tower, table["in.class_tokens"])
    assert tower.longest == text.rows(2) == {"deep1": 15, "shallow": 14}[part]


@pytest.mark.parametrize("learned", [0, 1, 4])
def test_cut_and_batched_rows_equal_all_77_of_one_sentence(golden, learned):
    """As the published code goes: one image and sentence at a time, over the whole context."""
    torch.manual_seed(0)
    table = load_file(golden("iqe_text_shallow.safetensors"))
    tower, ids = Tower(weights(table), table["token_ids"]), ids_of(table)
    prompts = DeepPrompts(32, learned, 3) if learned else None
    found = PromptedText(ids, prompts)(tower, table["in.class_tokens"])
    for image, added in enumerate(table["in.class_tokens"]):
        for sentence in range(2):
            words = tower.embed(ids[sentence : sentence + 1])[0]
            rows = torch.cat([words[:12], added, words[13:]])[:77] + tower.positions
            for layer, block in enumerate(tower.blocks):
                if prompts is not None:
                    kept = rows[1:] if layer == 0 else rows[1 + learned :]
                    own = prompts.projection(prompts.tokens[layer])
                    rows = torch.cat([rows[:1], own, kept])[:77]
                causal = nn.Transformer.generate_square_subsequent_mask(77)
                rows = block(rows[None], src_mask=causal)[0]
            row = rows[12 + learned + 1]
            row = row if prompts is None else prompts.norm(row)
            expected = F.normalize(tower.finish(row[None]), dim=-1)[0]
            torch.testing.assert_close(found[image, sentence], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("learned", [0, 2])
def test_without_class_tokens_the_end_token_is_read(golden, learned):
    torch.manual_seed(0)
    table = load_file(golden("iqe_text_shallow.safetensors"))
    tower, ids = Tower(weights(table), table["token_ids"]), ids_of(table)
    prompts = DeepPrompts(32, learned, 3) if learned else None
    text = PromptedText(ids, prompts)
    end = tower.embed(torch.tensor([[49407]]))
    found = text(tower, None)
    assert found.shape == (1, 2, 24)
    torch.testing.assert_close(found, text(tower, end), rtol=1e-4, atol=1e-5)
    assert text.rows(0) == tower.longest == 13 + learned


def test_sentences_of_different_lengths_keep_their_own_places(golden):
    torch.manual_seed(0)
    table = load_file(golden("iqe_text_shallow.safetensors"))
    tower, ids = Tower(weights(table), table["token_ids"]), ids_of(table)
    short = torch.tensor([49406, 320, 1125, 49407])
    ids[0] = F.pad(short, (0, 73))
    prompts = DeepPrompts(32, 1, 3)
    together = PromptedText(ids, prompts)(tower, table["in.class_tokens"])
    for sentence in (0, 1):
        alone = PromptedText(ids[sentence : sentence + 1], prompts)(tower, table["in.class_tokens"])
        torch.testing.assert_close(together[:, sentence], alone[:, 0], rtol=1e-4, atol=1e-5)


def test_every_layer_gets_rows_of_its_own(golden):
    table = load_file(golden("iqe_text_deep1.safetensors"))
    text, tower = published(table, "deep1")
    text(tower, table["in.class_tokens"])[..., 0].sum().backward()
    assert text.prompts.tokens.grad.flatten(1).abs().amax(dim=1).min() > 1e-6
    before = text(tower, table["in.class_tokens"])
    with torch.no_grad():
        for layer in range(3):
            text.prompts.tokens[layer] += 1.0
            after = text(tower, table["in.class_tokens"])
            assert not torch.allclose(after, before, atol=1e-4), layer
            before = after


def test_what_comes_before_the_class_tokens_is_computed_once(golden):
    table = load_file(golden("iqe_text_deep1.safetensors"))
    text, tower = published(table, "deep1")
    for _ in range(2):
        text(tower, table["in.class_tokens"])
    assert tower.begun == 2  # with gradients, once a step
    with torch.no_grad():
        first = text(tower, table["in.class_tokens"])
        assert_parity(first, table["out.text_features"])
        torch.testing.assert_close(text(tower, table["in.class_tokens"][:1]), first[:1])
        assert tower.begun == 3
        text.prompts.norm.bias += 1.0
        text.prompts.tokens[2] += 1.0
        changed = text(tower, table["in.class_tokens"])
        assert tower.begun == 4
        assert not torch.allclose(changed, first, atol=1e-3)
        text.prompts.load_state_dict(text.prompts.state_dict())
        tower.positions = tower.positions.clone()  # as a tower that was cast or moved
        text(tower, table["in.class_tokens"])
        assert tower.begun == 5
    text(tower, table["in.class_tokens"]).sum().backward()
    assert text.prompts.tokens.grad is not None


def test_a_model_that_was_loaded_for_inference_only_works_too(golden):
    table = load_file(golden("iqe_text_deep1.safetensors"))
    with torch.inference_mode():
        text, tower = published(table, "deep1")
        for _ in range(2):
            assert_parity(text(tower, table["in.class_tokens"]), table["out.text_features"])


@pytest.fixture
def classes(golden) -> dict[str, Tensor]:
    return load_file(golden("iqe_class_prompt.safetensors"))


def test_published_class_tokens(classes):
    own = {k: v for k, v in weights(classes).items() if k != "prompt_temp"}
    tokens = ClassTokens(32, 2)
    tokens.load_state_dict(renamed(own, CLASS_TOKENS))
    assert_parity(tokens(classes["in.image_feature"]), classes["out.tokens"])


def test_published_class_tokens_without_the_image(classes):
    tokens = ClassTokens(32, 2, None)
    tokens.load_state_dict({"learned": classes["w.prompt_query"]})
    found = tokens(classes["in.image_feature"])
    assert_parity(found.expand(3, -1, -1), classes["out.tokens_no_global"])


def test_the_papers_perceptron_adds_to_the_learned_tokens(classes):
    torch.manual_seed(0)
    tokens = ClassTokens(32, 2, "mlp")
    first, _, second, _ = tokens.condition
    hidden = (classes["in.image_feature"] @ first.weight.T + first.bias).clamp_min(0)
    added = hidden @ second.weight.T + second.bias
    expected = tokens.learned + torch.stack([added[:, :32], added[:, 32:]], dim=1)
    torch.testing.assert_close(tokens(classes["in.image_feature"]), expected)


def test_starts_within_two_deviations():
    learned = ClassTokens(768, 2).learned
    assert 0.8 < learned.std().item() < 0.95  # of a normal distribution cut at 2
    assert learned.abs().max().item() <= 2
    tokens = DeepPrompts(64, 1, 12).tokens
    assert tokens.shape == (12, 1, 64)
    assert tokens.abs().max().item() <= 1
    assert tokens.std().item() == pytest.approx(3**-0.5, rel=0.1)
