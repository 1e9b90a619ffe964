"""The language model: causal, cached exactly, relative in position, tied to its embedding."""

import copy

import pytest
import torch
from archzoo.zoo import create_model, save_model
from archzoo.zoo.backbones.self_attention import KeyValueCache, rotate, rotation

from ..small_models import build, on_meta, trained

LENGTH = 12
RESIDUALS = ["add", "scaled", "attnres", "block_attnres"]
every_residual = pytest.mark.parametrize("residual", RESIDUALS)
BITWISE = {"rtol": 0.0, "atol": 0.0}


def gpt(residual="add", **options):
    """Return the smallest GPT in float64, as if trained, in evaluation."""
    return trained(build("gpt_nano", residual=residual, **options)).double().eval()


def ids(batch=2, length=LENGTH, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, length), generator=g)


def decode(model, tokens, pieces, limit=64):
    """Return the logits of a text that is fed in pieces."""
    cache, logits = KeyValueCache(limit), []
    for piece in tokens.split(pieces, dim=1):
        logits.append(model.forward_head(model.forward_features(piece, cache)))
    assert cache.position == tokens.shape[1]
    return torch.cat(logits, 1)


@pytest.mark.parametrize(
    "pieces", [[12], [1] * 12, [11, 1], [5, 1, 1, 5], [1, 11], [7, 5]], ids=str
)
@every_residual
@torch.no_grad()
def test_cached_decoding_is_the_full_forward(residual, pieces):
    model, tokens = gpt(residual), ids()
    # Sums over the keys run in another order; float64, a few thousand roundings.
    torch.testing.assert_close(decode(model, tokens, pieces), model(tokens), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("position", [0, 1, 6, LENGTH - 1])
@every_residual
@torch.no_grad()
def test_a_token_changes_its_own_logits_and_later_ones_only(residual, position):
    model, tokens = gpt(residual), ids()
    changed = tokens.clone()
    changed[:, position] = (changed[:, position] + 1) % 256
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :position], before[:, :position], **BITWISE)
    assert (after[:, position:] - before[:, position:]).abs().amax((0, 2)).min() > 1e-9


@torch.no_grad()
def test_the_order_of_earlier_tokens_matters():
    model, tokens = gpt(), ids()
    swapped = tokens[:, [1, 0, *range(2, LENGTH)]]
    assert (model(swapped)[:, -1] - model(tokens)[:, -1]).abs().max() > 1e-6


# Rotary positions.


def vectors(seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, LENGTH, 32, generator=g, dtype=torch.float64)


def test_a_rotation_keeps_norms():
    x = vectors(0)
    rotated = rotate(x, *rotation(torch.arange(LENGTH), 32))
    # The float32 cosines and sines are off a unit circle by some 1e-7.
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0.0)
    assert (rotated[:, 1:] - x[:, 1:]).abs().max() > 0.5


def test_position_zero_rotates_nothing():
    x = vectors(0)
    rotated = rotate(x, *rotation(torch.arange(LENGTH), 32))
    torch.testing.assert_close(rotated[:, 0], x[:, 0], **BITWISE)


@pytest.mark.parametrize("shift", [1, 10, 50])
def test_a_score_depends_on_the_relative_position_only(shift):
    q, k = vectors(1), vectors(2)

    def scores(start):
        angles = rotation(torch.arange(start, start + LENGTH), 32)
        return rotate(q, *angles) @ rotate(k, *angles).mT

    # An angle of up to 62 radians in float32 is off by 4e-6, times scores of some 10.
    torch.testing.assert_close(scores(shift), scores(0), rtol=0.0, atol=1e-4)
    still = rotate(q, *rotation(torch.arange(LENGTH), 32)) @ k.mT
    assert (still - scores(0)).abs().max() > 1.0


def test_the_fastest_pair_turns_one_radian_a_token_and_the_slowest_hardly():
    cos, sin = rotation(torch.tensor([0, 1, 2]), 8, base=1e4)
    assert cos.shape == sin.shape == (3, 4)
    angles = torch.tensor([0.0, 1.0, 2.0])[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(cos, angles.cos())
    torch.testing.assert_close(sin, angles.sin())


# Generation.


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


@every_residual
def test_temperature_zero_takes_the_likeliest_token_each_time(residual):
    model, prompt = gpt(residual), ids(length=4)
    tokens = prompt
    with torch.no_grad():
        for _ in range(6):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(prompt, 6, temperature=0), tokens)


def test_the_only_candidate_is_the_likeliest():
    model, prompt = gpt(), ids(length=4)
    greedy = model.generate(prompt, 8, temperature=0)
    assert torch.equal(model.generate(prompt, 8, top_k=1, temperature=5.0), greedy)


def test_a_generator_decides_the_text_and_nothing_else_does():
    model, prompt = gpt(), ids(length=4)
    first = model.generate(prompt, 16, generator=generator())
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(model.generate(prompt, 16, generator=generator()), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.generate(prompt, 16, generator=generator(4)), first)


def test_sampling_stays_among_the_k_likeliest():
    model, prompt = gpt(), ids(batch=64, length=1)
    with torch.no_grad():
        best = model(prompt)[:, -1].topk(3).indices
    drawn = model.generate(prompt, 1, top_k=3, temperature=10.0, generator=generator())[:, -1:]
    assert (drawn == best).any(1).all()
    assert (drawn != best[:, :1]).any()


@pytest.mark.parametrize("prompt_length", [1, 6, 8, 20])
def test_text_may_grow_beyond_the_context(prompt_length):
    model, prompt = gpt(context_length=8), ids(length=prompt_length)
    text = model.generate(prompt, 12, temperature=0)
    assert text.shape == (2, prompt_length + 12)
    assert torch.equal(text[:, :prompt_length], prompt)


def test_a_prompt_beyond_the_context_is_read_from_its_end():
    model, prompt = gpt(context_length=8), ids(length=20)
    short = model.generate(prompt[:, -8:], 5, temperature=0)
    assert torch.equal(model.generate(prompt, 5, temperature=0)[:, -5:], short[:, -5:])


def test_a_cache_keeps_the_newest_positions_only():
    cache = KeyValueCache(3)
    for i in range(5):
        x = torch.full((1, 1, 1, 1), float(i))
        key, value = cache.extend(0, x, -x)
    assert key.flatten().tolist() == [2.0, 3.0, 4.0]
    assert value.flatten().tolist() == [-2.0, -3.0, -4.0]


@torch.no_grad()
def test_a_window_that_slides_while_a_piece_is_fed_stays_causal():
    model, tokens = gpt(), ids()
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 256
    before, after = (decode(model, t, [5, 7], limit=8) for t in (tokens, changed))
    torch.testing.assert_close(after[:, :10], before[:, :10], **BITWISE)
    assert not torch.equal(after[:, 10], before[:, 10])


def test_a_piece_beyond_the_cache_is_refused():
    with pytest.raises(ValueError, match="the cache holds 4 tokens, got 5 at once"):
        decode(gpt(), ids(), [5, 7], limit=4)


def test_nothing_to_add_returns_the_prompt():
    assert torch.equal(gpt().generate(ids(), 0), ids())


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-320])
def test_at_the_tiniest_temperature_the_likeliest_token_is_drawn(temperature):
    model = gpt()
    greedy = model.generate(ids(), 8, temperature=0)
    assert torch.equal(model.generate(ids(), 8, temperature=temperature), greedy)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (torch.zeros(2, 0, dtype=torch.long), {}, r"tokens must be \(B, T\).*got \(2, 0\)"),
        (torch.zeros(3, dtype=torch.long), {}, r"tokens must be \(B, T\).*got \(3,\)"),
        (ids(), {"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        (ids(), {"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        (ids(), {"top_k": 0}, "top_k must be at least 1, got 0"),
    ],
)
def test_a_bad_request_is_refused_by_name(tokens, options, message):
    with pytest.raises(ValueError, match=message):
        build("gpt_nano").generate(tokens, 3, **options)


def test_heads_that_do_not_divide_the_width_into_pairs_are_refused():
    with pytest.raises(ValueError, match="width=66 must be a multiple of 2 · num_heads=4"):
        create_model("gpt_nano", width=66)


# The head.


def test_the_head_is_the_embedding(tmp_path):
    model = build("gpt_nano")
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}")
    for tied in (model, copy.deepcopy(model), loaded, build("gpt_nano").bfloat16()):
        assert tied.head.weight is tied.embedding.weight
    assert torch.equal(loaded.embedding.weight, model.embedding.weight)


def test_a_replaced_head_leaves_the_embedding_alone():
    model = build("gpt_nano")
    embedding = model.embedding.weight.clone()
    model.reset_classifier(256)
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(model.embedding.weight, embedding)


def test_a_number_of_classes_unties_the_head():
    tied, untied = on_meta("gpt_nano"), on_meta("gpt_nano", num_classes=256)
    extra = 256 * 64 + 256
    counts = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert counts[1] == counts[0] + extra


@pytest.mark.parametrize("residual", ["add", "block_attnres"])
def test_a_fresh_branch_is_small_at_its_end(residual):
    model = build("gpt_nano", residual=residual, width=256)
    for i, branch in enumerate(model.trunk.branches):
        first, last = (branch.qkv, branch.proj) if i % 2 == 0 else (branch.fc1_x, branch.fc2)
        # 0.02 and 0.02 / sqrt(4 branches); thousands of normals give their deviation to 2 %.
        assert first.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert last.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
