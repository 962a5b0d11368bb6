"""Our examples equal those that SeqIO makes of T5's inputs and targets for a prefix LM: tokens, loss, attention."""

import numpy as np
import pytest

from helpers import span_corruption_reference as t5
from helpers.denoising_examples import EOD, FIRST, TOKENS, examples, make_objective_batch, windows
from pathways_lite.recipe import PrefixLM, SpanCorruption

T, EOS = 64, 1


@pytest.mark.parametrize("objective", [SpanCorruption(rate=0.3), PrefixLM()], ids=lambda o: o.kind)
def test_packed_rows_equal_seqios(objective: SpanCorruption) -> None:
    """Two documents a row, corrupted by T5's rules with our masks; SeqIO appends EOS, joins, shifts and packs them."""
    seqio = pytest.importorskip("seqio", reason="the extra `seqio` is not installed")
    import tensorflow as tf

    x = windows(1, T, 0.0)
    x[0, [0, 20, T]] = EOD
    batch = make_objective_batch(objective, x)
    row_examples = examples(batch, 0)
    pairs = []
    for example in row_examples:
        document = sorted(token for token in example.tokens if token >= FIRST)  # texts of these tests count upwards
        kept = set(example.tokens[: example.inputs])
        mask = [token not in kept for token in document]
        corrupted = isinstance(objective, SpanCorruption)
        whole = [t for t in document if t in kept], [t for t in document if t not in kept]
        pairs.append(t5.corrupt(document, mask, TOKENS.first_sentinel) if corrupted else whole)
    features = {name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")}
    rows = tf.data.Dataset.from_generator(
        lambda: ({"inputs": i, "targets": [*t, EOS]} for i, t in pairs), output_signature=features
    )
    converter = seqio.PrefixLMFeatureConverter(pack=True)
    (expected,) = converter(rows, {"inputs": T, "targets": T}).as_numpy_iterator()

    sizes = [len(example.tokens) for example in row_examples]
    used, position = sum(sizes), batch.positions[0, : sum(sizes)]
    targets = np.where(batch.targets[0, :used] == EOD, EOS, batch.targets[0, :used])  # SeqIO's end of a text
    inputs, column = (np.repeat([getattr(e, name) for e in row_examples], sizes) for name in ("inputs", "column"))
    assert len(row_examples) == 2
    for name, actual in {
        "decoder_target_tokens": targets,
        "decoder_input_tokens": batch.tokens[0, :used],
        "decoder_loss_weights": batch.loss_weights[0, :used],
        "decoder_positions": position,
        "decoder_causal_attention": position < inputs,
    }.items():
        np.testing.assert_array_equal(expected[name][:used], actual, err_msg=name)
    np.testing.assert_array_equal(batch.spans.stop[0, :used] - column, np.maximum(position + 1, inputs))
