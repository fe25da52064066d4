"""Every stage of a tiny run, once: what each leaves, that it is the right model's, and that nothing is done twice."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from fathom.checkpoint.reader import Reader
from fathom.config import ModelConfig, find_model
from fathom.config.effort import obeys
from fathom.errors import ConfigError
from fathom.posttrain.grpo import GRPOConfig
from fathom.posttrain.prompts import ProblemConfig
from fathom.posttrain.reject import RejectConfig
from fathom.posttrain.rewards import RewardConfig
from fathom.posttrain.rollout import RolloutConfig
from fathom.posttrain.run import MEASURED, MeasureConfig, Speedrun, measurements, pipeline, read, summary
from fathom.posttrain.traces import TraceConfig
from fathom.tasks.mixture import Mixture
from fathom.think.results import Result
from fathom.tokenizer import Tokenizer
from fathom.train.ledger import read as ledger
from fathom.train.samples import read_samples
from fathom.train.trainer import Recipe, TrainConfig
from tests.posttrain.tiny import CONFIG as SFT
from tests.train.tiny import RECIPE

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"arithmetic": [1], "sorting": [1]}
MIXTURE = Mixture(LEVELS)
TRACES = TraceConfig(samples=20, problems=MIXTURE, longest=128)
TINY = Speedrun(
    base=replace(RECIPE, train=replace(RECIPE.train, steps=2)),
    extend=Recipe(
        model={
            "max_position_embeddings": 512,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        },
        data=replace(RECIPE.data, row_tokens=128), train=TrainConfig(steps=1, rows=1, micro_rows=1, threads=1),
    ),
    problems=MIXTURE, traces=TRACES, house=replace(TRACES, samples=6, seed=9), tokenizer_samples=30,
    sft=replace(SFT, epochs=1, rows=8, micro_rows=8, obeys_effort=True),
    distil=replace(SFT, epochs=1, rows=8, micro_rows=8, obeys_effort=False),
    grpo=GRPOConfig(
        steps=1, threads=1, problems=ProblemConfig(levels=LEVELS),
        rollout=RolloutConfig(groups=1, samples=2, max_tokens=8), rewards=RewardConfig(overlong_tokens=4),
    ),
    reject=RejectConfig(count=2, samples=2, problems=MIXTURE, max_tokens=8, held_out=2),
    measure=MeasureConfig(n=1, student_n=1, efforts=("own",), budgets=(4,), samples=2, max_tokens=64),
)  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("speedrun")
    assert pipeline(TINY, out).run()
    return out


def initial(out: Path, stage: str) -> str:
    """The folder of the checkpoint that a stage began with, from its ledger."""
    began = next(event for event in ledger(out / stage) if event["event"] == "start")
    path = began["model"] if stage == "grpo" else began["recipe"]["train"]["init"]
    return Path(path).relative_to(out).as_posix()


def test_each_stage_goes_on_from_the_right_model(done) -> None:
    assert initial(done, "extend") == "base/model"
    assert initial(done, "sft") == "extend/model"
    assert initial(done, "grpo") == "sft/model"
    assert initial(done, "distil") == "extend/model", "the student is the base, not the teacher"
    sampled = next(event for event in ledger(done / "reject") if event["event"] == "reject")
    assert sampled["model"] == str(done / "grpo/model")


def test_the_context_is_made_longer_with_yarn_and_stays_so(done) -> None:
    before = ModelConfig.read(done / "base/model")
    assert before.rope_scaling is None and before.max_position_embeddings == 256
    for stage in MEASURED:
        config = ModelConfig.read(done / stage / "model")
        assert config.rope_scaling is not None and config.rope_scaling.factor == 4.0
        assert config.max_position_embeddings == 512


def test_all_models_have_the_tokenizer_of_the_first_stage(done) -> None:
    made = Tokenizer.load(done / "tokenizer")
    for stage in ("base", *MEASURED):
        held = Tokenizer.load(done / stage / "model")
        assert held.fingerprint == made.fingerprint
        assert held.settings.get("obeys_effort") is {"sft": True, "grpo": True, "distil": False}.get(stage)


def test_the_student_reads_what_was_kept_and_the_house_style(done) -> None:
    kept = list(read_samples(done / "reject/kept.jsonl"))
    house = list(read_samples(done / "distil/house.jsonl"))
    read_in = next(event for event in ledger(done / "distil") if event["event"] == "sft")
    assert read_in["samples"] + read_in["dropped"] == len(kept) + len(house) and len(house) == 6


def test_every_model_is_asked_the_same_problems(done) -> None:
    results = {path.name: Result.read(path) for path in sorted((done / "eval").glob("*.eval.json"))}
    assert [name.removesuffix(".eval.json") for name in results] == [
        "1 extend", "2 sft", "3 grpo", "4 distil", "5 distil budgets", "6 distil samples",
    ]  # fmt: skip
    assert len({result.problems for result in results.values()}) == 1
    assert len({result.fingerprint for result in list(results.values())[:4]}) == 4
    assert {score.effort for score in results["5 distil budgets.eval.json"].scores} == {"budget 4"}
    assert {score.samples for score in results["6 distil samples.eval.json"].scores} == {2}


def test_the_summary_has_a_row_for_each_model_and_mode(done) -> None:
    rows = summary(done)
    assert [(row["model"], row["mode"], row["n"]) for row in rows] == [
        ("extend", "own", 2), ("sft", "own", 2), ("grpo", "own", 2), ("distil", "own", 2),
        ("distil budgets", "budget 4", 2), ("distil samples", "own", 2),
    ]  # fmt: skip


def test_a_second_run_does_nothing_and_a_change_only_what_follows_from_it(done) -> None:
    times = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file() and path.parent != done}
    assert pipeline(TINY, done).run()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    other = pipeline(replace(TINY, grpo=replace(TINY.grpo, seed=1)), done)
    assert [name for name in ("tokenizer", "base", "extend", "sft", "grpo", "reject", "distil", "eval")
            if other.seconds(name) is None] == ["grpo", "reject", "distil", "eval"]  # fmt: skip


@pytest.mark.parametrize("tier", ["cpu", "gpu"])
def test_the_shipped_recipes_can_be_built(tier: str, tmp_path) -> None:
    recipe = read(ROOT / f"recipes/speedrun-{tier}.toml")
    job = pipeline(recipe, tmp_path)
    assert [stage.name for stage in job.stages][-1] == "eval"
    assert recipe.grpo.problems.levels == dict(recipe.problems.levels) == dict(recipe.reject.problems.levels)
    configs = [config for _, _, configs in measurements(recipe) for config in configs]
    assert {config.split for config in configs} == {"test"}
    model = ModelConfig.from_dict(recipe.base.model | recipe.extend.model)
    longest = max(recipe.sft.row_tokens, recipe.grpo.rollout.max_tokens, recipe.reject.max_tokens)
    assert longest <= model.max_position_embeddings
    assert model.rope_scaling.original_max_position_embeddings == recipe.base.model["max_position_embeddings"]
    if tier == "cpu":
        assert sum(recipe.planned_s.values()) <= 600 and set(recipe.planned_s) == {s.name for s in job.stages}


def test_a_recipe_may_name_its_base_and_its_problems_once(tmp_path) -> None:
    (tmp_path / "base.toml").write_text("[model]\nhidden_size = 32\n[train]\nsteps = 7\n")
    text = 'base = "base.toml"\n[problems.levels]\nchain = [1, 2]\n[extend.train]\nsteps = 1\n'
    text += "[reject.problems]\nchinese = 0.5\n"
    (tmp_path / "all.toml").write_text(text)
    recipe = read(tmp_path / "all.toml", ["base.train.rows=16", "sft.epochs=5"])
    assert (recipe.base.train.steps, recipe.base.train.rows, recipe.sft.epochs) == (7, 16, 5)
    assert dict(recipe.traces.problems.levels) == {"chain": [1, 2]} == recipe.grpo.problems.levels
    assert (recipe.reject.problems.chinese, recipe.traces.problems.chinese) == (0.5, 0.0)
    (tmp_path / "all.toml").write_text(text + "[planned_s]\nsleep = 9\n")
    with pytest.raises(ConfigError, match="'sleep'"):
        pipeline(read(tmp_path / "all.toml"), tmp_path)
    with pytest.raises(ConfigError, match="seeed"):
        read(tmp_path / "all.toml", ["sft.seeed=1"])


def test_settings_that_decide_a_stage_are_plain_json() -> None:
    assert json.dumps(asdict(TINY))


def test_a_start_takes_the_place_of_tokenizer_and_base(tmp_path):
    recipe = replace(TINY, start="nano", extend=Recipe(train=TrainConfig(steps=0)), student="sft")
    job = pipeline(recipe, tmp_path)
    assert [stage.name for stage in job.stages] == ["tokenizer", "extend", "sft", "grpo", "reject", "distil", "eval"]
    assert job.run(only=("tokenizer", "extend"))
    model, nano = tmp_path / "extend/model", find_model("nano")
    tokenizer = Tokenizer.load(model)
    assert obeys(tokenizer.settings) and tokenizer.encode("384 + 2957") == Tokenizer.load(nano).encode("384 + 2957")
    with Reader(model) as ours, Reader(nano) as theirs:
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(torch.equal(ours.read(name), theirs.read(name)) for name in theirs.tensors)
