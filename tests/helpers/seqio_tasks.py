"""Tasks for SeqIO's registry: two of text as bytes, a Mixture of both, and one of inputs and targets."""

import seqio
import tensorflow as tf

VOCABULARY = seqio.ByteVocabulary()
FEATURES = {"targets": seqio.Feature(VOCABULARY, add_eos=False)}


def lines(name: str, count: int):  # type: ignore[no-untyped-def]
    def dataset(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed
        texts = [f"{name} {split} number {i}, é" for i in range(count if split == "train" else 3)]
        return tf.data.Dataset.from_tensor_slices({"targets": texts})

    return dataset


for name, count in (("odd", 30), ("even", 60)):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(lines(name, count), splits=("train", "validation")),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features=FEATURES,
    )
seqio.TaskRegistry.add(
    "answers",
    source=seqio.FunctionDataSource(lines("why", 5), splits=("train",)),
    preprocessors=[
        lambda dataset: dataset.map(lambda x: {"inputs": "Q " + x["targets"], "targets": x["targets"]}),
        lambda dataset: seqio.preprocessors.tokenize(dataset, {**FEATURES, "inputs": FEATURES["targets"]}, False),
    ],
    output_features={**FEATURES, "inputs": FEATURES["targets"]},
)
seqio.MixtureRegistry.add("both", [("odd", 1.0), ("even", 3.0)])
