"""The analyses of the paper: each against its null, on a landscape whose answers are known, and once on a real model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from swarm_worker.analyses import ANALYSES, Subject, cli, plots
from swarm_worker.analyses.ablations import VARIANTS
from swarm_worker.analyses.diamonds import relative_ranks, wilson, winner
from swarm_worker.analyses.diversity import distinct_counts
from swarm_worker.analyses.dropout import stopped_at
from swarm_worker.analyses.emergence import emergence, further_experts, guessers
from swarm_worker.analyses.finding import difference
from swarm_worker.analyses.subject import Climbed, Visit
from swarm_worker.analyses.trajectories import principal_axes
from swarm_worker.gate import paired_bootstrap
from swarm_worker.hull import HullOptions
from swarm_worker.scorer import Scorer
from swarm_worker.scoring.engine import Asked, Candidate, Likelihood, Scored, Told
from swarm_worker.utilities import Item, make

NAMES = ("one", "two", "three", "four")
TARGET = np.array([0.4, 0.3, 0.2, 0.1])


@dataclass(frozen=True)
class Landscape:
    """An engine without a model: a position answers item j right where it is nearer than ``radii[j]`` to ``TARGET``, and is
    surer of the right answer the nearer it is."""

    radii: dict[str, float]
    identity: str = "landscape"
    context: int = 1000

    def set_experts(self, folders: Sequence[Path], options: HullOptions = HullOptions()) -> None:  # noqa: B008
        raise NotImplementedError("the landscape has its experts")

    def length(self, prompt: object, answer: str) -> int:
        return 1

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        return [self._told(one, asked) for one in scored]

    def _told(self, scored: Scored, asked: Asked) -> Told:
        assert isinstance(scored, Candidate)
        away = float(np.linalg.norm(np.array(scored.coefficients) - TARGET))
        answers = tuple("right" if away < self.radii[str(prompt)] else "wrong" for prompt in asked.answers)
        return Told(tuple(Likelihood(-away, 1) for _ in asked.likelihoods), answers)


def landscape(radii: Sequence[float], **options: object) -> Subject:
    """Four experts; a test item for each radius."""
    test = [Item(prompt=f"test {number}", good="right") for number in range(len(radii))]
    engine = Landscape({str(item.prompt): radius for item, radius in zip(test, radii, strict=True)})
    search = Scorer(engine, make("likelihood"), [Item(prompt="search", good="right")])
    subject = Subject(search, Scorer(engine, make("exact_match"), test), NAMES, evaluations=80)
    return replace(subject, **{"options": {"preset": "paper", "particles": 8}, **options})


# The experts are .71, .84, .95 and 1.05 away from the target: the last six items are beyond all of them.
GRADED = landscape([2.0] * 3 + [1.0, 0.9, 0.8] + [0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_every_analysis_has_a_table_a_note_of_its_null_json_and_a_picture(name: str, tmp_path: Path) -> None:
    """Rows have the same columns, everything goes through JSON, the PNG is one, and a second look finds the same."""
    subject = replace(GRADED, seeds=(0, 1))
    finding = ANALYSES[name].look(subject)
    assert finding.name == name
    assert finding.rows
    assert finding.notes
    assert len({tuple(row) for row in finding.rows}) == 1
    assert json.loads(json.dumps(finding.to_json(), allow_nan=False)) == finding.to_json()
    assert ANALYSES[name].look(subject) == finding
    cli.write(finding, finding.to_json(), tmp_path)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / f"{name}.json").read_text())["name"] == name


def test_a_picture_is_the_same_again(tmp_path: Path) -> None:
    """One finding, one PNG, to the byte."""
    finding = ANALYSES["diamonds"].look(GRADED)
    pictures = []
    for number in range(2):
        drawn, axes = plots.figure()
        ANALYSES["diamonds"].draw(finding, axes)
        pictures.append(plots.save(drawn, tmp_path / f"{number}.png").read_bytes())
    assert pictures[0] == pictures[1]


# The subject


def test_a_lineup_leaves_experts_out_and_adds_copies_up() -> None:
    """A swarm of some experts never uses another; copies of one expert are one coefficient; sums stay 1."""
    without = GRADED.climb(0, [1, 2, 3])
    assert all(visit.position[0] == 0 for visit in without.visits)
    assert any(visit.position[1] * visit.position[3] for visit in without.visits)
    repeated = GRADED.climb(0, [2, 2, 2])
    assert np.array([visit.position for visit in repeated.visits]) == pytest.approx(
        np.tile([0, 0, 1, 0], (len(repeated.visits), 1)), abs=1e-9
    )
    assert [sum(visit.position) for visit in without.visits] == pytest.approx([1] * len(without.visits))


def test_the_mix_of_copies_is_the_same_adapter(tmp_path: Path) -> None:
    """In both spaces an expert's copies with c1, c2 make the update that it makes once with c1 + c2."""
    from swarm_worker.hull import ExpertStack
    from tests.contract.tiny_model import make_base
    from tests.unit.tiny_experts import make_expert

    base = make_base(tmp_path / "base")
    one, two = (make_expert(base, tmp_path / name, seed) for name, seed in (("one", 1), ("two", 2)))
    once, twice = ExpertStack.load([one, two]), ExpertStack.load([one, two, one])
    module = next(iter(once.modules))
    for space in ("delta", "factors"):
        expected = once.update(module, (0.9, 0.1), space)
        assert twice.update(module, (0.4, 0.1, 0.5), space).allclose(expected, atol=1e-6)


def test_a_search_has_a_bill_of_its_own() -> None:
    """Whatever was searched before, a search may spend its own budget: the same seed ends the same."""
    first, again = GRADED.climb(3), GRADED.climb(3)
    assert first == again
    assert first.item_generations == len(first.visits) <= GRADED.evaluations
    assert first.item_generations + 8 > GRADED.evaluations  # one more generation would not fit
    assert len(first.final) == first.moved == 8


def test_starts_that_are_only_scored_are_no_particles() -> None:
    """The soup, where it is scored and does not join, has no path."""
    climbed = landscape([1.0], options={"preset": "paper", "particles": 8, "score_soup": True}).climb(0)
    assert max(visit.particle for visit in climbed.visits) == 8
    assert sorted(climbed.particles) == list(range(8))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("names", ("one",), "names must be two experts"),
        ("names", ("one", "one"), "no two alike"),
        ("seeds", (), "seeds must be different numbers"),
        ("seeds", (1, 1), "seeds must be different numbers"),
        ("evaluations", 4, "evaluations must be more than the 4 starts"),
        ("test", GRADED.search, "1 test items are among the search items"),
    ],
)
def test_a_bad_subject_is_refused_by_name(field: str, value: object, message: str) -> None:
    """The field, the value and what is allowed; a leaked item is named."""
    with pytest.raises(ValueError, match=message):
        replace(GRADED, **{field: value})


# Intervals


def test_the_interval_is_the_gates_for_one_seed_and_wider_where_seeds_differ() -> None:
    """Seeds that agree add nothing to the noise of the items; seeds that differ widen the interval."""
    rng = np.random.default_rng(1)
    before, after = rng.random(60), rng.random(60)
    one = difference(before[None], after[None])
    gate = paired_bootstrap(list(before), list(after), seed=0)
    assert (one.mean, one.low, one.high) == pytest.approx((gate.mean, gate.low, gate.high), abs=0.01)
    agreeing = difference(before[None], np.stack([after] * 5))
    assert (agreeing.low, agreeing.high) == pytest.approx((one.low, one.high), abs=0.01)
    differing = difference(before[None], np.stack([after + shift for shift in (-0.4, -0.2, 0.0, 0.2, 0.4)]))
    assert differing.high - differing.low > 1.3 * (one.high - one.low)


# Emergence


def test_the_null_holds_random_answerers() -> None:
    """Answerers that know nothing of the items emerge as much as the guessers' null says: in 95 of 100 worlds they are inside
    its range, at 20 of 1/4 accuracy nearly everywhere."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        right = rng.random((5, 40)) < 0.1
        low, high = np.quantile(guessers([0.1] * 5, 40, rng, 500), [0.025, 0.975])
        inside += bool(low <= right.any(axis=0).mean() <= high)
    assert inside >= 180
    assert guessers([0.25] * 20, 1000, rng).mean() == pytest.approx(1 - 0.75**20, abs=0.001)


def test_the_null_holds_more_of_the_same_experts() -> None:
    """Items of unequal difficulty, answerers that differ by chance only: what K more of them solve lies within the range of
    the further experts' null; blind guessers would solve nearly all of it."""
    rng = np.random.default_rng(6)
    inside, observed, guessed = 0, [], []
    for _ in range(60):
        chance = rng.beta(0.5, 1.0, size=150)
        experts, more = rng.random((8, 150)) < chance, rng.random((12, 150)) < chance
        hard = ~experts.any(axis=0)
        emerged = more[:, hard].any(axis=0).mean()
        low, high = np.quantile(further_experts(experts.sum(axis=0), 8, 12, rng, 300), [0.025, 0.975])
        inside += bool(low <= emerged <= high)
        observed.append(emerged)
        guessed.append(guessers(list(more.mean(axis=1)), int(hard.sum()), rng, 300).mean())
    assert inside >= 52
    assert np.mean(guessed) > 0.95
    assert np.mean(observed) < 0.6


def test_a_skill_that_no_expert_has_is_above_the_null_of_further_experts() -> None:
    """All experts solve the same easy items: more of their kind would solve no hard one, and a swarm that does is told so."""
    finding = emergence(GRADED)
    shares = {(row["who"].split()[0], row["what"]): row for row in finding.rows}
    assert finding.figures["failed_by_all_experts"] == 6
    observed, further = shares["the", "observed"], shares["the", "further experts"]
    assert observed["share"] > 0.5
    assert observed["low"] > further["high"]
    # The one of all particles is at least the best's, and its null of guessers is no less than that of one guesser.
    assert shares["any", "observed"]["share"] >= observed["share"]
    assert shares["any", "guessers"]["share"] >= shares["the", "guessers"]["share"]


def test_nothing_emerges_where_nothing_can() -> None:
    """Items beyond everybody stay unsolved; items that some expert solves are not counted."""
    finding = emergence(landscape([2.0, 1.0, 0.0, 0.0]))
    assert finding.figures["failed_by_all_experts"] == 2
    assert [row["share"] for row in finding.rows if row["what"] == "observed"] == [0.0, 0.0]
    with pytest.raises(ValueError, match="nothing can emerge"):
        emergence(landscape([2.0, 2.0]))


def test_emergence_needs_right_or_wrong() -> None:
    """A graded score has no items that are solved."""
    graded = replace(GRADED, test=Scorer(GRADED.test.engine, make("likelihood"), GRADED.test.items))
    with pytest.raises(ValueError, match="right \\(1\\) or wrong \\(0\\)"):
        emergence(graded)


# Diamonds


def test_ranks_and_the_winner() -> None:
    """0 is the best start, 1 the worst, equals share; the winner has the highest personal best, wherever it ended."""
    assert relative_ranks(np.array([0.1, 0.9, 0.5])).tolist() == [1.0, 0.0, 0.5]
    assert relative_ranks(np.array([0.5, 0.5, 0.1])).tolist() == [0.25, 0.25, 1.0]
    visits = [
        Visit(g, p, (1.0, 0.0), u) for g, p, u in [(0, 0, 0.6), (0, 1, 0.2), (1, 0, 0.5), (1, 1, 0.9), (2, 1, 0.1)]
    ]
    assert winner(Climbed((1.0, 0.0), 0.9, 5, 2, tuple(visits))) == 1


def test_the_null_of_diamonds_is_uniform() -> None:
    """Best at the start: one in N; in the bottom half: a half; on average in the middle."""
    rows = ANALYSES["diamonds"].look(replace(GRADED, seeds=tuple(range(8)))).rows
    assert [row["null"] for row in rows] == pytest.approx([1 / 8, 1 / 2, 1 / 2], abs=0.02)
    assert all(row["null_low"] <= row["null"] <= row["null_high"] for row in rows)
    assert all(row["low"] <= row["observed"] <= row["high"] for row in rows)


def test_the_interval_of_a_share_of_few_runs() -> None:
    """Wilson's: 1 of 10 is .018 to .404; none of 5 still leaves room."""
    assert wilson(0.1, 10) == pytest.approx((0.018, 0.404), abs=0.001)
    assert wilson(0.0, 5) == pytest.approx((0.0, 0.434), abs=0.001)


# Weak to strong, diversity, ablations, dropout


def test_weak_to_strong_leaves_the_top_expert_out() -> None:
    """The top is the best on search items; the swarm without it has all the others, the bottom half the lowest two."""
    lineups: list[tuple[int, ...]] = []

    class Watching(Subject):
        def climb(self, seed, lineup=None, **changes):
            lineups.append(tuple(lineup))
            return super().climb(seed, lineup, **changes)

    fields = {name: getattr(GRADED, name) for name in ("search", "test", "names", "evaluations", "options")}
    finding = ANALYSES["weak_to_strong"].look(Watching(**fields, seeds=(0,)))
    assert [row["expert"] for row in finding.figures["ranked"]] == list(NAMES)
    assert lineups == [(0, 1, 2, 3), (1, 2, 3), (2, 3)]
    by_name = {row["who"]: row for row in finding.rows}
    assert by_name["top expert, alone"]["difference"] == 0
    assert by_name["swarm, all experts"]["low"] > 0
    assert by_name["best expert, bottom half"]["difference"] < 0
    with pytest.raises(ValueError, match="4 experts or more"):
        ANALYSES["weak_to_strong"].look(replace(GRADED, names=NAMES[:3], evaluations=80))


def test_one_repeated_expert_is_that_expert() -> None:
    """Its hull is a point: no difference from its best member, on any item; distinct experts gain."""
    rows = ANALYSES["diversity"].look(GRADED).rows
    assert [row["who"] for row in rows] == ["1 x 4", "2 x 2", "4 x 1"]
    assert (rows[0]["difference"], rows[0]["low"], rows[0]["high"]) == (0, 0, 0)
    assert rows[0]["test"] == rows[0]["best_member"]
    assert rows[-1]["difference"] > 0


def test_lineups_for_any_number_of_slots() -> None:
    """The paper's four for ten; for a prime the nearest thing."""
    assert distinct_counts(10) == [1, 2, 5, 10]
    assert distinct_counts(9) == [1, 3, 9]
    assert distinct_counts(7) == [1, 2, 3, 7]
    assert distinct_counts(2) == [1, 2]


@pytest.mark.parametrize("name", VARIANTS)
def test_an_ablation_changes_the_swarm(name: str) -> None:
    """Each variant's particles go elsewhere than the full swarm's; start and size change where they must."""
    # A utility whose best is where a particle gets stuck soon, so that restarts happen: patience of one generation.
    subject = replace(GRADED, evaluations=200, options={"preset": "paper", "particles": 8, "restart_patience": 1})
    full, varied = subject.climb(1), subject.climb(1, **VARIANTS[name])
    assert full.visits != varied.visits
    assert varied.moved == (4 if name == "no crossover" else 8)
    if "velocity" in name or name == "no randomness":
        assert full.visits[:8] == varied.visits[:8]  # the start's positions are the same, the first move is not
        assert full.visits[8:16] != varied.visits[8:16]


def test_an_ablation_that_the_swarm_already_has_is_left_out() -> None:
    """It would compare a swarm with itself."""
    finding = ANALYSES["ablations"].look(landscape([0.5, 0.3], options={"preset": "paper", "repel": 0.0}, seeds=(0,)))
    assert [row["who"] for row in finding.rows] == ["full", *(name for name in VARIANTS if name != "no repel")]
    assert any("has it already: no repel" in note for note in finding.notes)


def test_a_rule_that_never_came_into_play_is_said_so() -> None:
    """Without a restart that could happen within the budget, "no restart" is the same search, and no evidence."""
    notes = ANALYSES["ablations"].look(replace(GRADED, evaluations=24, seeds=(0,))).notes
    assert any("Never came into play" in note and "no restart" in note for note in notes)
    assert not any("no repel" in note for note in notes)


def test_dropout_saves_what_it_does_not_score() -> None:
    """Nothing without it; about its chance of what follows the start with it; more of both saves more."""
    finding = ANALYSES["dropout"].look(replace(GRADED, evaluations=400, seeds=(0, 1, 2, 3)))
    saved = {row["who"]: row["saved"] for row in finding.rows}
    assert saved["K 0, N 0"] == 0
    moves = finding.figures["generations"] / (finding.figures["generations"] + 1)
    assert saved["K 0, N 0.4"] == pytest.approx(0.4 * moves, abs=0.05)
    assert saved["K 0.8, N 0.8"] > saved["K 0.4, N 0.4"] > saved["K 0, N 0.4"]
    full = next(row for row in finding.rows if row["saved"] == 0)
    assert full["difference"] == 0
    assert full["stopped"] == full["test"]


def test_stopping_early_takes_the_best_so_far() -> None:
    """Of the positions that the given item-generations had paid for."""
    climbed = GRADED.climb(0)
    assert stopped_at(climbed, climbed.item_generations, GRADED) == climbed.best
    assert stopped_at(climbed, 4, GRADED) == (1.0, 0.0, 0.0, 0.0)


# Trajectories


def test_the_projection_keeps_distances() -> None:
    """Positions in a plane keep their distances exactly; others lose, and ``retained`` says how much."""
    rng = np.random.default_rng(2)
    plane = rng.normal(size=(30, 2)) @ np.linalg.qr(rng.normal(size=(6, 2)))[0].T + rng.normal(size=6)
    projection = principal_axes(plane)
    assert sum(projection.retained) == pytest.approx(1)
    assert distances(projection.of(plane)) == pytest.approx(distances(plane))

    anywhere = rng.normal(size=(30, 6))
    projection = principal_axes(anywhere)
    flat = distances(projection.of(anywhere))
    assert (flat <= distances(anywhere) + 1e-12).all()
    assert (flat**2).sum() / (distances(anywhere) ** 2).sum() == pytest.approx(sum(projection.retained))
    assert projection.retained[0] >= projection.retained[1]
    assert projection.axes @ projection.axes.T == pytest.approx(np.eye(2))


def distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, None] - positions, axis=-1)


def test_trajectories_lead_to_the_best() -> None:
    """The best path ends where the search's best is, experts and particles are in one picture, and the swarm closes in."""
    finding = ANALYSES["trajectories"].look(GRADED)
    figures, climbed = finding.figures, GRADED.climb(0)
    axes = np.array([[axis[name] for name in NAMES] for axis in figures["axes"]])
    path = next(path for path in figures["particles"] if path["particle"] == figures["best"]["particle"])
    end = np.array(path["positions"][path["generations"].index(figures["best"]["generation"])])
    away = axes @ (np.array(climbed.best) - np.eye(4)[1])
    assert end - figures["experts"]["two"] == pytest.approx(away, abs=1e-9)
    assert figures["best"]["utility"] == climbed.utility
    assert finding.rows[-1]["spread"] < finding.rows[0]["spread"]
    assert finding.rows[-1]["best"] > finding.rows[0]["best"]
    assert sum(len(path["positions"]) for path in figures["particles"]) == sum(row["scored"] for row in finding.rows)


# On a real model, and as a command


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run.yaml on a tiny base with four random experts; right answers are what a mix of them says."""
    from swarm_worker.scoring.engine import answers_of
    from swarm_worker.scoring.transformers import TransformersEngine
    from tests.contract.tiny_model import make_base
    from tests.unit.tiny_experts import make_expert

    root = tmp_path_factory.mktemp("analyses")
    base = make_base(root / "base")
    experts = [make_expert(base, root / name, seed) for seed, name in enumerate(NAMES)]
    prompts = [f"question {number}" for number in range(24)]
    engine = TransformersEngine.load(base, experts)
    answers = answers_of(engine, Candidate((0.4, 0.3, 0.2, 0.1)), prompts, 4)
    lines = [json.dumps({"prompt": p, "good": a}) for p, a in zip(prompts, answers, strict=True)]
    (root / "items.jsonl").write_text("\n".join(lines) + "\n")
    (root / "run.yaml").write_text(
        f"base: ./base\nexperts: [{', '.join(NAMES)}]\n"
        "data: {file: items.jsonl, search: 6, confirm: 2}\n"
        "utility: {name: exact_match, options: {max_tokens: 4}}\nscore: likelihood\nhull: {space: delta}\n"
        "optimizer: {name: model_swarms, preset: paper, options: {particles: 6}}\nbudget: {evaluations: 24}\n"
    )
    return root / "run.yaml"


def test_the_command_looks_at_a_real_model(config: Path, tmp_path: Path) -> None:
    """`shoal analyse` on a tiny model: positions, scores and nulls are the model's own, and the files are written."""
    from typer.testing import CliRunner

    told = CliRunner().invoke(
        cli.app, ["trajectories", "--config", str(config), "--out", str(tmp_path), "--seeds", "1", "--json"]
    )
    assert told.exit_code == 0, told.output
    value = json.loads(told.stdout)
    assert value == json.loads((tmp_path / "trajectories.json").read_text())
    assert (tmp_path / "trajectories.png").stat().st_size > 5_000
    assert value["subject"]["evaluations"] == 24
    assert value["subject"]["options"] == {"preset": "paper", "particles": 6}
    assert value["rows"][-1]["best"] > value["rows"][0]["best"]
    assert 0 < value["rows"][0]["best"] < 1


def test_an_analysis_is_of_the_papers_swarm_unless_the_config_says_otherwise(config: Path) -> None:
    """Space and score are the paper's whatever preset stands there, or none; those that are given themselves count."""
    from swarm_worker.offline import config as configs
    from swarm_worker.offline.config import HullConfig

    given = configs.load(config)
    bare = given.model_copy(update={"hull": HullConfig(), "score": None, "optimizer": None})

    def analysed(**changes: object) -> tuple[str, str, object]:
        subject = cli.subject_of(cli.scene_of(bare.model_copy(update=changes)), 1, print)
        return subject.search.space, subject.search.utility.name, subject.options

    paper = ("factors", "exact_match", {"preset": "paper"})
    assert analysed() == analysed(preset="paper") == paper
    assert analysed(hull=given.hull) == ("delta", *paper[1:])
    assert analysed(score=given.score) == ("factors", "likelihood", paper[2])


def test_a_subject_whose_budget_is_below_its_first_generation_says_what_is_needed() -> None:
    """Before anything is scored."""
    with pytest.raises(ValueError, match=r"evaluations must be \d\d or more, the swarm's first generation, not 10"):
        replace(GRADED, options={"preset": "paper"}, evaluations=10)


def test_emergence_on_a_real_model(config: Path) -> None:
    """What the experts fail and the swarm solves is counted from real answers: the same as asking again."""
    from swarm_worker.offline import config as configs
    from swarm_worker.offline.scene import Scene

    subject = cli.subject_of(Scene.of(configs.load(config)), 1, print)
    assert len(subject.test.items) == 16
    finding = emergence(subject)
    experts = subject.tested(subject.experts)
    hard = experts.max(axis=0) == 0
    solved = subject.tested(subject.climb(0).final)[:, hard].max(axis=0)
    observed = next(row for row in finding.rows if row["what"] == "observed")
    assert observed["share"] == pytest.approx(solved.mean())
    assert finding.figures["failed_by_all_experts"] == hard.sum() > 0


def test_the_command_names_what_there_is(config: Path, tmp_path: Path) -> None:
    """A mistyped name is one error that lists the analyses."""
    from registry.errors import BadInput

    with pytest.raises(BadInput, match="one of emergence, diamonds, weak_to_strong"):
        cli.app(["emergent", "--config", str(config)], standalone_mode=False)
    with pytest.raises(BadInput, match=r"missing\.yaml cannot be read"):
        cli.app(["emergence", "--config", str(tmp_path / "missing.yaml")], standalone_mode=False)
