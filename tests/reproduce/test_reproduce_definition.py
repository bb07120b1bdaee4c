"""Experiments as TOML files: what is refused and how, what scales change, and the files that come with the package."""
import pytest
from reproduce_tools import TINY, write_tiny

from convnet.reproduce.reading import DefinitionError, find, names
from convnet.reproduce.scales import SCALES, scaled

COVERAGE = {
    "000": {"Table 1", "Table 2", "Table 3", "Figure 2", "Figure 3", "Figure 4"},
    "001/002": {"Table 1", "Figure 2", "Figure 3", "Figure 4"},
    "003": {"Table 2", "Table 3", "Table 4"},
    "004": {"Figure 1", "Figure 2", "Figure 4", "Figure 5"},
    "ours": {"published against exact"},
}


def test_all_experiments_of_the_papers_can_be_read_at_every_scale():
    found = [find(name) for name in names()]
    for definition in found:
        sizes = []
        for scale in SCALES:
            at = scaled(definition, scale)
            assert at.parts and at.entries
            sizes.append(sum(part.setup.epochs for part in at.parts) * at.seeds)
            for entry in at.entries:
                for part in at.parts:
                    assert 1 <= len(entry.offered(part.name, at.choices)) <= max(1, len(entry.grid))
        assert sizes == sorted(sizes)
    covered = {}
    for definition in found:
        covered.setdefault(definition.paper, set()).add(definition.shows)
    assert covered == COVERAGE


def test_tables_hold_the_papers_numbers():
    table = {entry.name: entry.published["mnist"] for entry in find("002-table1-mnist").entries}
    assert (table["Prediction IBP"].error, table["Prediction IBP"].coefficient, table["Fast TBP"].seconds) == (0.90, 1.0, 5.38)
    assert {entry.name: entry.published["1000"].error for entry in find("003-table3").entries}["hsfob-db2"] == 33.792
    ibp = find("000-table1-svhn").entries[1].published
    assert not ibp["with dropout"].significant
    assert ibp["without dropout"].coefficient == 0.1


def test_the_papers_coefficients_are_on_the_grids():
    for name in names():
        for entry in find(name).entries:
            for told in entry.published.values():
                if told.coefficient is not None:
                    assert told.coefficient in entry.grid, (name, entry.name)


def test_a_file_may_start_from_another(tmp_path):
    path = write_tiny(tmp_path, 'like = "002-table1-mnist"\ntitle = "Mine"\n[setup]\nepochs = 3\n')
    definition = find(str(path))
    assert (definition.title, definition.parts[0].setup.epochs, definition.parts[0].setup.subset) == ("Mine", 3, 10000)
    assert len(definition.entries) == 7


@pytest.mark.parametrize(("old", "new", "message"), [
    ('title = "A tiny experiment"', "", r"tiny.toml: title is missing or no text; write title ="),
    ("seeds = 2", "seads = 2", r"tiny.toml: seads: unknown key 'seads'; did you mean 'seeds'"),
    ("seeds = 2", "seeds = 0", r"tiny.toml: seeds: .*at least 1"),
    ("turns = 1", "turns = 4", r"tiny.toml: folds is 3 with turns = 4"),
    ("epochs = 2", "epochs = 0", r"tiny.toml: part\[0\].epochs: .*at least 1"),
    ("epochs = 2", "epochs = 2\ntest_every = 0", r"tiny.toml: part\[0\].test_every: .*at least 1"),
    ("epochs = 2", "epocs = 2", r"tiny.toml: setup.epocs: .*did you mean 'epochs'"),
    ('network = "digits"', 'network = "digts"', r"part\[0\].network: .*did you mean 'digits'"),
    ('dataset = "digits"', 'dataset = "mnits"', r"part\[0\].dataset: .*did you mean 'mnist'"),
    ("epochs = 2", 'epochs = 2\noptimizer = "sdg"', r"part\[0\].optimizer: .*did you mean 'sgd'"),
    ("epochs = 2", 'epochs = 2\naugmentation = "mnits"', r"part\[0\].augmentation: .*did you mean 'mnist'"),
    ('spec = "bp"', 'spec = "bpp"', r"algorithm\[0\].spec: unknown algorithm 'bpp'; did you mean 'bp'"),
    ('spec = "bp"', 'spec = "loss-ibp:beta=0.1|1"', r"algorithm\[0\].spec offers several values"),
    ('coefficient = "beta"', "", r"algorithm\[1\].grid and coefficient belong together"),
    ("[0.01, 0.1, 1]", "[0.1, 0.01]", r"algorithm\[1\].grid must be ordered"),
    ("[0.01, 0.1, 1]", "[-0.1, 0.01]", r"algorithm\[1\].grid: .*at least 0"),
    ('name = "Loss IBP"', 'name = "Standard BP"', r"algorithm 'Standard BP' stands there twice"),
    ("paper.digits = { error = 5.0,", "paper.digit = { error = 5.0,", r"algorithm\[0\].paper: .*did you mean 'digits'"),
    ("{ error = 5.0,", "{ accuracy = 95.0, error = 5.0,", r"paper.digits.error or accuracy is needed, one of them"),
    ('figures = ["errors"', 'figures = ["error"', r"figures: .*did you mean 'errors'"),
    ("[levels]", "[scale]\ncpu = { epoch = 1 }\n[levels]", r"scale.cpu.epoch: .*did you mean 'epochs'"),
    ("[levels]", '[scale]\ncpu = { parts = ["digit"] }\n[levels]', r"scale.cpu.parts: .*did you mean 'digits'"),
    ("sigmas = [0.1]", "sigmas = [-0.1]", r"levels: sigma"),
    ("sigmas = [0.1]", "sigmas = 0.1", r"^[^:]*tiny.toml: levels.sigmas is 0.1; write a list, sigmas = \[...\]"),
    ("[0.01, 0.1, 1]", "0.1", r"tiny.toml: algorithm\[1\].grid is 0.1; write a list"),
    ('claims = ["IBP is better."]', 'claims = "IBP is better."', r"tiny.toml: claims is 'IBP is better.'; write a list"),
    ("{ error = 5.0,", '{ error = "x",', r"tiny.toml: algorithm\[0\].paper.digits.error: error is 'x'; it must be a number"),
    ("{ error = 5.0,", "{ accuracy = [],", r"tiny.toml: algorithm\[0\].paper.digits.accuracy: accuracy is \[\]"),
    ("significant = true", "significant = 1", r"algorithm\[1\].paper.digits.significant is 1; it must be true or false"),
    ("epochs = 2", "epochs = 2\noptimizer = 3", r"tiny.toml: part\[0\].optimizer is missing or no text"),
    ("[levels]", '[scale]\ncpu = { optimizer = "sgd:learning_rate=-1" }\n[levels]',
     r"tiny.toml: scale.cpu.optimizer: .*learning_rate is -1"),
    ("[levels]", "[scale]\ncpu = { batch_size = 0 }\n[levels]", r"tiny.toml: scale.cpu.batch_size: .*at least 1"),
    ("[levels]", "[scale]\ncpu = { parts = 3 }\n[levels]", r"tiny.toml: scale.cpu.parts is 3; write a list"),
    ("[levels]", "[scale]\ncpu = { parts = [] }\n[levels]", r"tiny.toml: scale.cpu.parts is empty; name at least one part"),
    ('["IBP is better."]', "[1]", r"tiny.toml: claims holds 1; write a list of texts in quotes"),
    ('["It is <small>."]', "[[]]", r"tiny.toml: assumptions holds \[\]; write a list of texts in quotes"),
    ("epochs = 2", 'epochs = 2\ndtype = "float99"', r"part\[0\].dtype: .*'float99'"),
    ("epochs = 2", 'epochs = 2\ninitialization = "hee"', r"part\[0\].initialization: .*did you mean 'he'"),
    ("epochs = 2", 'epochs = 2\nstage = "logistic"', r"part\[0\].stage belongs to the networks complex-.*not to 'digits'"),
    ("epochs = 2", "epochs = 2\nper_class = 3", r"part\[0\].subset and per_class are both given; write one of them"),
    ("seeds = 2", "seeds = = 2", r"this is not TOML \(.*line 6.*\); correct that line"),
    ("seeds = 2", 'like = "002-table1"', r"like is '002-table1'; it must be the name of an experiment"),
])
def test_errors_name_file_key_and_remedy(tmp_path, old, new, message):
    assert TINY.count(old) >= 1
    with pytest.raises(DefinitionError, match=message):
        find(str(write_tiny(tmp_path, TINY.replace(old, new, 1))))


def test_an_unknown_experiment_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean '002-table1-mnist'"):
        find("002-table1-mnits")
    with pytest.raises(FileNotFoundError):
        find(str(tmp_path / "none.toml"))


def test_scales_limit_and_own_limits_replace(tmp_path):
    full = find("002-table1-mnist")
    cpu = scaled(full, "cpu")
    assert (cpu.seeds, cpu.turns, cpu.choices, cpu.parts[0].setup.epochs, cpu.parts[0].setup.subset) == (3, 1, 3, 40, 10000)
    assert scaled(full, "full").parts == full.parts
    assert scaled(full, "full").scale == "full: as in the paper"
    own = scaled(full, "quick", epochs=90, seeds=4, images=500)
    assert (own.parts[0].setup.epochs, own.seeds, own.parts[0].setup.subset) == (90, 4, 500)
    assert "epochs = 90" in own.scale and "choices ≤ 1" in own.scale
    assert own.levels.sigmas == (0.2, 0.5)
    assert [part.name for part in scaled(find("003-table2"), "quick").parts] == ["50", "100"]
    with pytest.raises(ValueError, match="epochs"):
        scaled(full, "quick", epochs=0)


def test_the_limit_of_images_is_said_only_where_it_changes_something(tmp_path):
    assert "images" in scaled(find("002-table1-mnist"), "quick").scale
    assert "images" not in scaled(find("002-table1-mnist"), "cpu").scale  # which takes 10 000 itself
    assert "images" not in scaled(find("002-table1-mnist"), "full", images=20000).scale
    with pytest.raises(ValueError, match="images is 100, but '50' takes 50 training images of each class: leave --images out"):
        scaled(find("003-table2"), "cpu", images=100)
    # What is known to be small, or not known at all, is limited only if that is asked for.
    for dataset in ("digits", "own.npz", "own/folder"):
        own = find(str(write_tiny(tmp_path, TINY.replace('dataset = "digits"', f'dataset = "{dataset}"')
                                  .replace("subset = 60\n", "").replace("paper.digits", f"paper.'{dataset}'"))))
        assert scaled(own, "quick").parts[0].setup.subset is None
        assert scaled(own, "quick", images=10).parts[0].setup.subset == 10
        assert "images = 10" in scaled(own, "quick", images=10).scale


def test_a_part_may_take_images_per_class_where_the_setup_takes_a_number(tmp_path):
    text = TINY.replace("[levels]", '[[part]]\nname = "digits"\nper_class = 3\n[levels]')
    setup = find(str(write_tiny(tmp_path, text))).parts[0].setup
    assert (setup.subset, setup.per_class) == (None, 3)


def test_a_shortened_grid_keeps_what_is_nearest_to_the_papers_best():
    entry = next(e for e in find("002-table1-mnist").entries if e.name == "Loss IBP")
    assert entry.offered("mnist", 1) == ["loss-ibp:beta=0.03"]
    assert entry.offered("mnist", 3) == ["loss-ibp:beta=0.01", "loss-ibp:beta=0.03", "loss-ibp:beta=0.1"]
    assert len(entry.offered("mnist", None)) == 5
    # Where a paper tells none, values from all over the grid: 3 of 0.000001, ..., 1, 3.
    untold = find("003-table2").entries[1]
    assert untold.offered("50", 3) == [f"double-backprop:strength={value}" for value in ("1e-05", "0.01", "1")]
    assert len(untold.offered("50", 1)) == 1 and len(untold.offered("50", 20)) == 8
    norm2 = next(e for e in find("000-table3-mnist").entries if e.name == "IBP-L2")
    assert norm2.offered("mnist", 1) == ["loss-ibp:norm=2,beta=0.2"]
