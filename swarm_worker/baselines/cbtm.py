"""c-BTM (Gururangan et al., arXiv:2303.14177): each prompt goes to the experts of the clusters that it is near to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer

from swarm_worker.baselines.contender import Shares
from swarm_worker.baselines.panel import Panel
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.scoring.engine import Prompt, ScoringEngine

TEMPERATURES = (0.1, 0.03, 0.3, 1.0)  # the paper's range
ITEMS_A_CLUSTER = 6  # at least; a cluster's best expert is chosen on its own items

Matrix = npt.NDArray[np.float64]


def cbtm(setting: Setting) -> Found:
    """The experts, each counting by how near the prompt is to its clusters in tf-idf space; the temperature is chosen on the
    search items.

    With training data each expert has one cluster, the items whose ``task`` is its name. Without, the search items are
    clustered (k-means), and a cluster belongs to the expert that does best on its items. The paper mixes next-token
    distributions; here whole answers are mixed with the same shares (see ``fuse``). Costs an evaluation an expert, and the
    work of all of them for every answer.
    """
    panel = Panel(setting)
    clusters = _of_training(setting) if setting.training else _of_search_items(setting, panel)
    best = panel.best([ByCluster(clusters, temperature) for temperature in TEMPERATURES])
    weigh: ByCluster = best.weigh  # type: ignore[assignment]  # one of those just made
    source = "the training data" if setting.training else "the search items"
    note = f"{len(clusters.centres)} clusters of {source}, temperature {weigh.temperature:g}"
    note += f", {panel.utility(weigh):.4f} on the search items, at the cost of all experts"
    return Found(best, panel.item_generations, note)


@dataclass(frozen=True)
class Clusters:
    """``centres``: (k, terms). ``owners``: (k, members), how much of a cluster is each member's; rows sum to 1."""

    vectorizer: Any
    centres: Matrix
    owners: Matrix


@dataclass(frozen=True)
class ByCluster:
    """p(cluster | prompt) ~ exp(-distance ** 2 / temperature), equation 2 of the paper; then each cluster's owner."""

    clusters: Clusters
    temperature: float

    def __call__(self, engine: ScoringEngine, prompts: Sequence[Prompt]) -> Shares:
        vectors = self.clusters.vectorizer.transform([text_of(prompt) for prompt in prompts]).toarray()
        distances = ((vectors[:, None, :] - self.clusters.centres[None]) ** 2).sum(axis=2)
        near = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / self.temperature)
        shares: Shares = (near / near.sum(axis=1, keepdims=True)) @ self.clusters.owners
        return shares


def text_of(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message["content"]) for message in prompt if message.get("role") != "assistant")


def _of_training(setting: Setting) -> Clusters:
    by_expert = {name: [text_of(i.question) for i in setting.training if i.task == name] for name in setting.names}
    missing = [name for name, texts in by_expert.items() if not texts]
    if missing:
        raise ValueError(f"training must have items with the task of every expert; {', '.join(missing)} has none")
    vectorizer = _vectorizer().fit([text for texts in by_expert.values() for text in texts])
    centres = [np.asarray(vectorizer.transform(texts).mean(axis=0))[0] for texts in by_expert.values()]
    return Clusters(vectorizer, np.stack(centres), np.eye(setting.n_experts))


def _of_search_items(setting: Setting, panel: Panel) -> Clusters:
    texts = [text_of(item.question) for item in setting.items]
    vectorizer = _vectorizer()
    vectors = vectorizer.fit_transform(texts).toarray()
    # (items, experts); an item that could not be judged says as much for one expert as for another.
    scores = np.array([scores.values for scores in panel.scores()], dtype=float).T
    scores = np.where(np.isnan(scores), np.nanmean(scores), scores)
    k = max(1, min(setting.n_experts, len(texts) // ITEMS_A_CLUSTER, len(np.unique(vectors, axis=0))))
    found = KMeans(k, n_init=10, random_state=setting.seed % 2**32).fit(vectors)
    owners = np.zeros((k, setting.n_experts))
    overall = scores.mean(axis=0)
    for cluster in range(k):
        mean = scores[found.labels_ == cluster].mean(axis=0).round(6)
        best = max(range(setting.n_experts), key=lambda expert: (mean[expert], overall[expert]))
        owners[cluster, best] = 1.0
    return Clusters(vectorizer, found.cluster_centers_, owners)


def _vectorizer() -> TfidfVectorizer:
    return TfidfVectorizer(token_pattern=r"\S+")  # noqa: S106 - a token of text
