"""How often lite1 names samples as a user gets them, and whether their chains agree.

    python -m gradgen.tools.user_samples ten64 --data FOLDER --budget 600 --out RUN

For developers only. lite1 has no part in training and sampling.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gradgen import runtime

runtime.configure()

import numpy as np  # noqa: E402

import gradgen  # noqa: E402
from gradgen.evaluation.compare import JUDGE  # noqa: E402
from gradgen.evaluation.features import judge  # noqa: E402
from gradgen.evaluation.quality import load_validation  # noqa: E402
from gradgen.inference.diagnostics import in_agreement, smallest_ess, worst_r_hat  # noqa: E402
from gradgen.networks.load import load_bundle, load_classifier  # noqa: E402
from gradgen.runs.results import Samples  # noqa: E402
from gradgen.tools.exact_draws import named  # noqa: E402


def measure(
    name: str, data: Path, classes: int | None, out: Path | None, options: dict[str, Any]
) -> dict[str, Any]:
    """Names and diversity by lite1 of photographs and of samples, and the chains' agreement.

    Args:
        name: of the bundle.
        data: folder of photographs.
        classes: so many of the bundle's, spread over its list; ``None``: all.
        out: where the run is kept, if it is.
        options: of :func:`gradgen.sample`.
    """
    bundle, classifier = load_bundle(name), load_classifier(JUDGE)
    val = load_validation(data, bundle, lambda *_: None)
    own = np.array([classifier.labels.find(label.synset).index for label in bundle.labels])
    count = len(bundle.labels)
    chosen = np.linspace(0, count - 1, classes or count).astype(int)
    samples = gradgen.sample(bundle, [bundle.labels[i].synset for i in chosen], **options)
    if out is not None:
        samples.save(out)
    shown = np.isin(val.labels, chosen)
    kinds = {
        "photographs": (val.images[shown], val.labels[shown]),
        "samples": (samples.images, chosen[samples.class_position]),
    }
    report: dict[str, Any] = {"settings": samples.record.settings.to_json()}
    for kind, (pictures, labels) in kinds.items():
        verdicts, features = judge(classifier, pictures)
        report[kind] = named(verdicts, features, labels, bundle.labels, own)
    diverse = report["samples"]["diversity"] / report["photographs"]["diversity"]
    return report | {"diversity, samples ÷ photographs": diverse, "chains": agreement(samples)}


def agreement(samples: Samples) -> dict[str, Any]:
    """For each class whether its chains agree, the worst R-hat, the smallest bulk ESS."""
    rows = {}
    for position, found in enumerate(samples.record.classes):
        figures = found.diagnostics or {}
        believed = np.exp(samples.log_likelihood[samples.class_position == position])
        rows[found.name] = {
            "agree": in_agreement(figures),
            "worst R-hat": worst_r_hat(figures),
            "smallest ESS": smallest_ess(figures),
            "mean p(class)": float(believed.mean()),
            "least p(class)": float(believed.min()),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--classes", type=int, help="how many, spread over the list; all")
    parser.add_argument("--out", type=Path, help="a folder to keep the run in")
    parser.add_argument("--method")
    parser.add_argument("--budget", type=int)
    parser.add_argument("--num-chains", type=int, default=16)
    parser.add_argument("--start-candidates", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    bundle, data, classes, out = (options.pop(key) for key in ("bundle", "data", "classes", "out"))
    given = {key: value for key, value in options.items() if value is not None}
    report = measure(bundle, data, classes, out, given)
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
