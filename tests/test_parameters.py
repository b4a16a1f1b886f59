"""Parameters: what is wrong is said in one line before any work; notebooks and profiles agree with what there is."""

import re
import time
from collections import Counter

import nbformat
import papermill
import pytest
import yaml
from conftest import quick
from safetensors.torch import save_file

from ovit_core import models
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.data import catalog, loading
from ovit_core.methods import METHODS
from ovit_core.study import checks, paths, profiles, registry
from ovit_core.study.__main__ import main
from ovit_core.study.paths import NOTEBOOKS, PROFILES

ABLATIONS = registry.ablations()


@pytest.mark.parametrize(
    "setting, message",
    [
        ("upstream=glyph_leters", "upstream: unknown dataset 'glyph_leters'; did you mean 'glyph_letters'?"),
        ("methods=[ovit, obs]", "methods[1]: unknown method 'obs' ... one of ovit"),
        (
            "model=vit_tiny_patch16_225",
            "model: timm has no model 'vit_tiny_patch16_225'; did you mean vit_tiny_patch16_224",
        ),
        ("sparsities=[0.5, 1.5]", "sparsities[1] must be below 1, not 1.5"),
        ("seeds=[]", "seeds must ... at least one, not []"),
        ("sparsities=0.5", "sparsities must be a list ... not 0.5"),
        ("sparsities=[0.0, 0.5]", "sparsities[0] must be above 0, not 0.0"),
        ("block_size=0", "block_size must be at least 1, not 0"),
        ("epochs=six", "epochs must be a whole number, not 'six'"),
        ("sparsity=0.5", "unknown parameter 'sparsity'; did you mean 'sparsities'?"),
        ("protocols=[linnear]", "protocols[0] must be 'linear', 'knn' or 'full', not 'linnear'"),
        ("upstream=folder:nowhere", "upstream: folder:nowhere needs the folders"),
        ("datasets=[digits, cub200]", "datasets: cub200 is not in ... Put there the folder CUB_200_2011"),
        ("transfer_methods=[]", "transfer_methods must ... at least one, not []"),
        ("device=cudda", "device must be auto, cpu, cuda or cuda:N, not 'cudda'"),
        ("recovery_lrs=[-1.0]", "recovery_lrs[0] must be above 0, not -1.0"),
        (
            "recovery_methods=[obc]",
            "recovery_methods must be judged with one threshold for the model, which 'obc' is not",
        ),
        ("gradual_steps=[0.9, 0.5]", "gradual_steps must rise, not [0.9, 0.5]"),
        ("compute_passes=[3]", "compute_passes must divide gradients (256), which they share out, not 3"),
        ("compute_passes=[1]", "compute_passes[0] must be above 1, not 1"),
        ("finetune_seeds=[7]", "finetune_seeds must hold one of the seeds [0, 1, 2] at least"),
        ("recovery_images=95", "recovery_images must be at least batch_size (96), not 95"),
        ("checkpoint=nowhere.pt", "checkpoint must be an existing file, not 'nowhere.pt'"),
        ("regimes=[global, 2:1]", "regimes[1] must be global, uniform or N:M with 0 < N < M"),
        ("regimes=[global, 5:7]", "block_size for 5:7: rows of 64 weights"),
        ("damps=[1.0e-5, .nan]", "damps[1] must be a finite number, not nan"),
        ("damps=[.inf]", "damps[0] must be a finite number, not inf"),
        ("weight_decay=.inf", "weight_decay must be a finite number, not inf"),
        ("seeds=[-1]", "seeds[0] must be at least 0, not -1"),
        ("seeds=[1000000000000000]", "seeds[0] must be below 2147483648"),
        ("seeds=[1, 1]", "seeds must be different from each other, not [1, 1]"),
        ("methods=[ovit, ovit]", "methods must be different from each other"),
        ("datasets=[digits, digits]", "datasets must be different from each other"),
        ("sparsities=[0.5, 0.5]", "sparsities must be different from each other"),
        ("sparsities=[1.0e-9]", "sparsities: 1e-09 of 196,608 prunable weights rounds to none or all"),
        ("recovery_sparsities=[1.0e-9]", "recovery_sparsities: 1e-09 of 196,608 prunable weights rounds to none"),
        ("damp_sparsity=1", "damp_sparsity: 1 of 196,608 prunable weights rounds to none or all"),
        ("sensitivity_sparsity=1.0e-9", "sensitivity_sparsity: 1e-09 of 196,608"),
        ("model_args={act_layer: foo}", "model: model_args {'act_layer': 'foo'} do not fit vit_tiny_patch16_224"),
        ("model_args={depth: -1}", "model: model_args {'depth': -1} do not fit"),
        ("model_args={mlp_ratio: -1}", "model: model_args {'mlp_ratio': -1} do not fit"),
        ("model_args={img_size: 32, patch_size: 64}", "model: model_args ... the image is smaller than a patch"),
        ("checkpoint=" + 300 * "a", "checkpoint must be an existing file"),
        ("checkpoint=README.md", "checkpoint: checkpoint "),
        ("profile=2024-13-01", "--set profile: '2024-13-01' is no YAML"),
        ("prunable=5", "prunable must be a text, not 5"),
        ("regimes=[2:4, '02:04']", "regimes must be different from each other"),
        ("gradients=1000000000000", "gradients must be at most 100000000"),
        ("batch_size=true", "batch_size must be a whole number, not True"),
        ("pretrained=1", "pretrained must be true or false, not 1"),
        ("prunable=(", "prunable: '(' is no regular expression"),
        ("prunable=bias", "prunable: no weight matches 'bias'"),
        ("model_args={num_classes: 7}", "model_args must not hold num_classes: the dataset says how many"),
        ("model_args={pretrained: true}", "model_args must not hold pretrained: it is a parameter of its own"),
        ("model_args={embed_dims: 7}", "model: model_args {'embed_dims': 7} do not fit vit_tiny_patch16_224"),
        ("model_args={embed_dim: 65, num_heads: 4}", "model: model_args"),
        ("model_args={in_chans: 5}", "model_args: in_chans must be 1 or 3, gray or colour, not 5"),
        ("model_args=[1]", "model_args must be a mapping of names to values, not [1]"),
        ("device=cuda:99", "device must be auto or cpu here, not 'cuda:99': torch finds"),
        ("masks_from_zeros=true", "masks_from_zeros must be false where the dense model is trained here"),
        ("epochs=[1", "--set epochs: '[1' is no YAML"),
        ("epochs=!!python/object:os.system {}", "--set epochs: '!!python/object:os.system {}' is no YAML"),
        ("epochs", "--set needs NAME=VALUE, not 'epochs'"),
    ],
)
def test_bad_input_is_one_line_within_seconds(capsys, setting, message):
    start = time.monotonic()
    assert main(["quick", "--set", setting]) == 2
    said = capsys.readouterr().err
    first, *others = message.split(" ... ")
    assert said.startswith(f"error: {first}") and all(other in said for other in others), said
    assert said.count("\n") == 1
    assert time.monotonic() - start < 5


def test_what_yaml_reads_otherwise_has_its_meant_value():
    values = profiles.read_profile(
        "quick", ["regimes=[global, 2:4, 1:4]", "checkpoint=", "prunable=", "lr=1e-3", "epochs=6"]
    )
    assert values["regimes"] == ["global", 124, 64] and values["checkpoint"] is None and values["lr"] == "1e-3"
    config = registry.build(ABLATIONS["no_weight_update"].parameters, values)
    assert (
        config.regimes == ("global", "2:4", "1:4") and config.checkpoint == config.prunable == "" and config.lr == 1e-3
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "missing parameters: profile, upstream"),
        ("[1, 2]", "must map parameters to values"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_profile_that_is_none_is_one_line(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.setattr(profiles.paths, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["mine"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_an_unknown_profile_lists_those_there_are(capsys):
    assert main(["quik"]) == 2
    assert "there are fashion, imagenet, photos, quick" in capsys.readouterr().err


def test_a_pattern_that_matches_nothing_stops_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    assert main(["quick", "--only", "transfer", "--set", "prunable=nothing"]) == 2
    assert "error: prunable: no weight matches 'nothing'" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_report_without_results_says_which_command_makes_them(capsys):
    assert main(["report", "nowhere"]) == 2
    assert "a study run with `--set profile=nowhere` makes them" in capsys.readouterr().err
    assert main(["report", "imagenet"]) == 2  # a profile that was not run
    assert "run `python -m ovit_core.study imagenet` first" in capsys.readouterr().err


def test_what_is_published_is_found_from_any_home_and_its_own_first(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    assert paths.exported("quick") == paths.ROOT / "figures" / "quick" == paths.published("quick")
    mine = tmp_path / "figures" / "quick"
    mine.mkdir(parents=True)
    (mine / "results.csv").write_text("")
    assert paths.published("quick") == mine and paths.published("nowhere") == tmp_path / "figures" / "nowhere"
    monkeypatch.chdir(tmp_path)
    assert paths.told(mine) == "figures/quick" and paths.told(paths.ROOT) == str(paths.ROOT)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    values = profiles.read_profile("quick", []) | dict(lr="1e-3")
    assert registry.build(Transfer, values).lr == 1e-3


@pytest.mark.parametrize("name", ABLATIONS)
def test_notebooks_declare_what_the_parameters_are_and_the_quick_profile_says(name):
    path, fields = ABLATIONS[name].notebook, list(ABLATIONS[name].parameters.model_fields)
    assert path == NOTEBOOKS / f"{name}.ipynb"
    declared = papermill.inspect_notebook(str(path))
    assert list(declared) == fields
    quick = yaml.safe_load((PROFILES / "quick.yaml").read_text())
    for field in fields:
        assert declared[field]["help"] and declared[field]["inferred_type_name"] != "None"
        assert eval(declared[field]["default"]) == quick[field], field
    page = nbformat.read(path, as_version=4)
    assert [("parameters" in c.metadata.get("tags", [])) for c in page.cells].count(True) == 1
    assert not any(c.get("outputs") or c.get("execution_count") for c in page.cells)  # sources stay stripped


@pytest.mark.parametrize("profile", sorted(p.stem for p in PROFILES.glob("*.yaml")))
def test_profiles_are_valid_and_state_cost_and_expectation(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "unreachable", lambda source: "")  # as if there was a network
    parameters = profiles.read_profile(profile, [])
    own = [f"{name}/{part}" for name in ("cifar10_10k", "flowers89", "food101_64px") for part in ("train", "test")]
    for folder in ("imagenet/train", "imagenet/val", "stanford_cars", "CUB_200_2011", *own):
        (tmp_path / folder).mkdir(parents=True)
    assert parameters.keys() == {name for a in ABLATIONS.values() for name in a.parameters.model_fields}
    assert parameters["profile"] == profile
    for ablation in ABLATIONS.values():
        config = registry.build(ablation.parameters, parameters | dict(data_dir=str(tmp_path)))
        checks.check(config)
        assert len(config.seeds) >= 3
    comment = re.match(r"(#.*\n)+", (PROFILES / f"{profile}.yaml").read_text()).group()
    assert "Cost:" in comment and "Expect:" in comment


@pytest.mark.parametrize(
    ("part", "given", "meant"),
    [("score", "gredy", "greedy"), ("update", "jont", "joint"), ("curvature", "input", "inputs")],
)
def test_a_method_of_a_misspelt_part_does_not_run_as_another(part, given, meant, monkeypatch):
    monkeypatch.setitem(METHODS, "mine", METHODS["ovit"]._replace(**{part: given}))
    with pytest.raises(ValueError, match=f"^methods: mine has no {part} '{given}'; did you mean '{meant}'"):
        checks.check(quick(NoWeightUpdate))


@pytest.mark.parametrize(
    ("engine", "variable", "given", "message"),
    [
        ("ray", "RAY_ADDRESS", "127.0.0.1:9", "no ray at RAY_ADDRESS=127.0.0.1:9: 127.0.0.1 does not answer"),
        (
            "dask",
            "DASK_SCHEDULER_ADDRESS",
            "tcp://127.0.0.1:9",
            "no dask at DASK_SCHEDULER_ADDRESS=tcp://127.0.0.1:9: ",
        ),
        ("dask", "DASK_SCHEDULER_ADDRESS", "foo:bar", "DASK_SCHEDULER_ADDRESS must be HOST:PORT, not 'foo:bar'"),
        ("ray", "RAY_ADDRESS", "head", "RAY_ADDRESS must be HOST:PORT, not 'head'"),
    ],
)
def test_a_cluster_that_does_not_answer_is_named_by_its_variable(engine, variable, given, message, monkeypatch):
    monkeypatch.setenv(variable, given)
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match=f"^engine: {re.escape(message)}"):
        checks.check(quick(NoWeightUpdate, f"engine={engine}"))


def test_weights_that_are_not_finite_are_named_before_any_work(tmp_path):
    model = "model_args={img_size: 32, patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}"
    state = models.create("vit_tiny_patch16_224", 26, **quick(NoWeightUpdate, model).model_args).state_dict()
    state["blocks.0.mlp.fc1.bias"][3] = float("nan")
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"^checkpoint: .*odd.safetensors.* not finite, in blocks.0.mlp.fc1.bias"):
        checks.check(quick(NoWeightUpdate, model, f"checkpoint={tmp_path / 'odd.safetensors'}"))


def test_a_probe_on_more_images_a_class_than_there_are_is_none(caplog, tmp_path, monkeypatch):
    """Of digits 130 to 140 a class are there to learn from."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    config = lambda *shots: quick(Transfer, "datasets=[digits]", "upstream=digits", f"few_shots={list(shots)}")
    assert checks.read(config(5), "digits") == checks.read(config(), "digits") and not caplog.records
    with pytest.raises(
        ValueError, match=r"^few_shots: no class of digits has 500 images to learn from; the largest has 1\d\d"
    ):
        checks.read(config(5, 500), "digits")
    assert not caplog.records  # a set that is no downstream one is not asked
    counts = Counter(loading.load("digits").labels("train").tolist())
    checks.read(config(max(counts.values())), "digits")
    assert (
        f"digits: of 10 classes {sum(n < max(counts.values()) for n in counts.values())} with fewer than" in caplog.text
    )


def test_mixing_in_pairs_needs_an_even_batch():
    with pytest.raises(ValueError, match=r"^batch_size must be even where images are mixed in pairs, not 33"):
        quick(NoWeightUpdate, "mixup=0.8", "batch_size=33")
    assert quick(NoWeightUpdate, "batch_size=33").batch_size == 33


def test_a_folders_metric_is_told_and_others_have_theirs():
    c = quick(
        Transfer,
        "datasets=['folder:flowers89', caltech101]",
        "full_datasets=[caltech101]",
        "folder_metrics={flowers89: mean_per_class}",
    )
    assert [c.metric(name) for name in c.datasets] == ["mean_per_class"] * 2
    assert c.replace(folder_metrics={}).metric("folder:flowers89") == "top1"
    with pytest.raises(ValueError, match=r"^folder_metrics must name folders .* among datasets.*, not 'cifar10'"):
        c.replace(folder_metrics={"cifar10": "top1"})


def test_a_profile_is_called_as_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_text("profile: quick\nepochs: 1\n")
    with pytest.raises(ValueError, match=r"profile must be mine in .*mine\.yaml, as the file is called, not 'quick'"):
        profiles.read_profile("mine", [])
    (tmp_path / "mine.yaml").write_text("profile: mine\nepochs: 1\n")
    assert profiles.read_profile("mine", ["profile=other"]) == dict(profile="other", epochs=1)  # asked for
