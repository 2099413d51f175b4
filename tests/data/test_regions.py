"""Domains as splits, labels that are fixed, and groups of pictures that support and query do not share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabench import data
from metabench.core import SPLITS, MetabenchError, Split, Splits, seeds
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.sampling import Indices, Shape
from tests.data.sets.test_folder import load, paint, parts, refused
from tests.data.tasks.test_sampling import table
from tests.support import small

WITHIN = TaskConfig(dataset="folder", way=2, shot=1, query=2, test_query=2, domains="within")
TILES = {"group": "([a-z]+)[0-9]"}


def regions(root: Path, n_regions: int = 6, n_images: int = 8) -> Path:
    """Paint regions of four classes, of which the last region lacks one; pairs of images are of one tile."""
    for region in range(n_regions):
        for row in range(4 - (region == n_regions - 1)):
            for column in range(n_images):
                name = f"{'abcdefgh'[column // 2]}{column % 2}.png"
                paint(root / f"region{region}" / f"class{row}" / name, 40 * region + 8 * row + column)
    return root


def by_domain(root: Path, **options: object) -> Splits:
    return load(regions(root), split_by="domain", meta_train=0.5, meta_validation=0.17, **options)


def test_domains_are_in_one_split_each_and_classes_may_be_in_all(tmp_path: Path) -> None:
    splits = by_domain(tmp_path)
    homes = [set(part.domains) for part in parts(splits)]
    assert [len(home) for home in homes] == [3, 1, 2]
    assert len(set.union(*homes)) == 6
    assert splits.is_by_domain
    assert not splits.shares_classes
    for part in parts(splits):
        assert part.shared == ("class0", "class1", "class2", "class3")
        assert set(part.words) <= set(part.shared)
    others = {by_domain(tmp_path, seed=seed).fingerprint for seed in range(4)}
    assert len(others | {splits.fingerprint}) > 2
    assert by_domain(tmp_path, **TILES).fingerprint != splits.fingerprint


def test_folders_of_splits_may_say_which_domains_they_have(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "val", "test")):
        regions(tmp_path / part, 2)
        for region in range(2):
            (tmp_path / part / f"region{region}").rename(tmp_path / part / f"region{2 * number + region}")
    splits = load(tmp_path, split_by="domain")
    assert [sorted(set(part.domains)) for part in parts(splits)] == [
        ["region0", "region1"],
        ["region2", "region3"],
        ["region4", "region5"],
    ]
    (tmp_path / "test" / "region4").rename(tmp_path / "test" / "region0")
    assert "class 'region0/class0' is in two splits" in refused(tmp_path, split_by="domain")
    for row in range(4):
        (tmp_path / "test" / "region0" / f"class{row}").rename(tmp_path / "test" / "region0" / f"other{row}")
    assert "domain 'region0' is in meta_train and in meta_test" in refused(tmp_path, split_by="domain")


def test_a_task_is_of_one_domain_and_its_hash_names_it(tmp_path: Path) -> None:
    splits = by_domain(tmp_path)
    data.check(WITHIN, splits)
    tasks = frozen.frozen(splits, "meta_test", WITHIN, 30, "test")
    homes = [{splits.meta_test.domains[row] for row in rows} for rows in frozen.classes_of(tasks)]
    assert {len(home) for home in homes} == {1}
    assert len(set.union(*homes)) == 2
    other = by_domain(tmp_path, seed=3)
    assert frozen.frozen(other, "meta_test", WITHIN, 30, "test").hash != tasks.hash


def test_one_domain_is_drawn_from_as_data_without_domains_are() -> None:
    split = table()
    plain = sampling.pool(split, TaskConfig(dataset="small", way=3), 2)
    alone = sampling.pool(split._replace(shared=split.classes), TaskConfig(dataset="small", way=3), 2)
    shape = Shape(3, 1, 2)
    a, b = (sampling.sample(seeds.generator("one"), source, shape, 9) for source in (plain, alone))
    assert all(torch.equal(x, y) for x, y in zip(*map(_tensors, (a, b)), strict=True))


def test_lists_of_tasks_of_before_have_the_hash_that_they_had() -> None:
    splits = small.splits()._replace(meta_test=table(12, domains=3), name="table")
    task = TaskConfig(dataset="glyphs", way=3, shot=2, test_query=3)
    hashes = [
        frozen.frozen(splits, "meta_test", task.model_copy(update=kind), 20, "test").hash[:16]
        for kind in ({}, {"domains": "within"}, {"domains": "across"}, {"unlabelled": 2, "distractors": 1})
    ]
    assert hashes == HASHES


HASHES = ["04fb570ed18524db", "a7bd96ced4445ca7", "7b609729853f3857", "f2c33443dcaec177"]
"""As the sampling of before domains could be split drew them."""


def _tensors(indices: Indices) -> list[torch.Tensor]:
    return list(sampling.tensors(indices).values())


@pytest.mark.parametrize("domains", ["within", "across"])
def test_a_fixed_label_is_one_class_over_a_thousand_tasks_and_a_shuffled_one_is_any(domains: str) -> None:
    split = _labelled(table(12, domains=3))
    task = TaskConfig(dataset="small", way=2, domains=domains)  # type: ignore[arg-type]
    drawn = {}
    for labels in ("fixed", "shuffled"):
        source = sampling.pool(split, task.model_copy(update={"labels": labels}), 2)
        ((shape, _),) = sampling.shapes(task, 2, 1000, seeds.generator("shapes"), outputs=source.outputs)
        indices = sampling.sample(seeds.generator("fixed"), source, shape, 1000)
        tasks = frozen.gather(split.images, indices, shape)
        for half in (tasks.support, tasks.query):
            row = (255 * half.x[..., 0, 0, 0]).round().long()  # pixel 0 is the class, four to a domain
            pairs = set(zip((row % 4).flatten().tolist(), half.y.flatten().tolist(), strict=True))
            any_label = {(c, y) for c in range(4) for y in (0, 1)}
            assert pairs == ({(c, c) for c in range(4)} if labels == "fixed" else any_label)
        drawn[labels] = indices, tasks
    (fixed, tasks), (shuffled, _) = drawn.values()
    assert torch.equal(fixed.examples, shuffled.examples), "labels change no picture"
    assert tasks.classes.shape == (1000, 4)
    assert bool(((tasks.classes >= 0).sum(1) == 2).all())
    named = tasks.classes.gather(1, tasks.support.y)
    assert torch.equal(named % 4, tasks.support.y)


def _labelled(split: Split) -> Split:
    return split._replace(shared=tuple(sorted(set(split.words))))


def test_fixed_labels_need_classes_that_all_splits_have() -> None:
    task = TaskConfig(dataset="small", way=3, labels="fixed")
    with pytest.raises(MetabenchError, match="labels=fixed: meta-test has classes of its own"):
        sampling.pool(table(), task)


@given(seed=st.integers(0, 500), shot=st.integers(1, 3), unlabelled=st.integers(0, 2))
@settings(max_examples=25)
def test_support_and_query_never_share_a_group(seed: int, shot: int, unlabelled: int) -> None:
    groups = torch.randint(20, (6, 20), generator=seeds.generator("groups", seed))
    counts = torch.randint(15, 21, (6,), generator=seeds.generator("counts", seed))
    split = table(6, 20, groups=groups, counts=counts)
    source = sampling.pool(split, TaskConfig(dataset="small", way=2))
    shape = Shape(2, shot, 2, unlabelled=unlabelled, distractors=min(unlabelled, 1))
    indices = sampling.sample(seeds.generator("apart", seed), source, shape, 12)
    assert shared(split, shape, indices) == []
    assert bool((indices.examples < counts[indices.classes][..., None]).all())
    for rows in indices.examples.flatten(0, 1).tolist():
        assert len(set(rows)) == len(rows)


def test_groups_that_leave_no_query_are_refused() -> None:
    split = table(6, 20, groups=torch.arange(20).expand(6, -1) // 10)
    source = sampling.pool(split, TaskConfig(dataset="small", way=2))
    with pytest.raises(
        MetabenchError, match="too few examples are of a group that is not in the support set"
    ):
        sampling.sample(seeds.generator("none"), source, Shape(2, 2, 11), 2)


def test_for_classes_whose_groups_leave_no_query_others_are_drawn() -> None:
    groups = torch.arange(20) + 100 * torch.arange(8)[:, None]
    groups[:2] = torch.arange(20) // 10
    split = table(8, 20, groups=groups)
    source = sampling.pool(split, TaskConfig(dataset="small", way=2))
    shape = Shape(2, 8, 11)
    alone = source._replace(split=table(2, 20, groups=groups[:2]))
    with pytest.raises(MetabenchError, match="too few examples"):
        sampling.sample(seeds.generator("both"), alone, shape, 1)
    indices = sampling.sample(seeds.generator("both"), source, shape, 12)
    assert shared(split, shape, indices) == []
    assert not bool((indices.classes < 2).any()), "of 20 images of two groups 11 are of both"


def shared(split: Split, shape: Shape, indices: Indices) -> list[str]:
    """Say which group is on both sides of a task."""
    assert split.groups is not None
    lines = []
    for task in range(len(indices.classes)):
        one = sampling.part(indices, slice(task, task + 1))
        rows = split.groups[one.classes[0][:, None], one.examples[0]]
        query = slice(shape.max_shots, shape.max_shots + shape.query)
        asked = set(rows[:, query].flatten().tolist())
        shown = {*rows[:, : query.start].flatten().tolist(), *rows[:, query.stop :].flatten().tolist()}
        if one.distractors is not None and one.distractor_examples is not None:
            others = split.groups[one.distractors[0][:, None], one.distractor_examples[0]]
            shown |= set(others.flatten().tolist())
        lines += [f"group: {group} is in support and query of task {task}" for group in asked & shown]
    return lines


def test_without_the_option_neighbours_are_on_both_sides(tmp_path: Path) -> None:
    bare, apart = by_domain(tmp_path), by_domain(tmp_path, **TILES)
    numbers = apart.meta_test.groups
    assert numbers is not None
    assert len(numbers.unique()) == 2 * 4 + (apart.meta_test.counts is not None), "four tiles in each region"
    for splits, is_shared in ((bare, True), (apart, False)):
        (group,) = frozen.frozen(splits, "meta_test", WITHIN, 20, "test").groups
        lines = shared(splits.meta_test._replace(groups=numbers), group.shape, group.indices)
        assert bool(lines) == is_shared


def test_classes_of_too_few_images_are_not_drawn_and_a_domain_of_too_few_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    regions(tmp_path)
    for region, kept in (("region0", 3), ("region1", 1)):
        for row in range(kept, 4):
            for path in sorted((tmp_path / region / f"class{row}").glob("*.png"))[2:]:
                path.unlink()
    splits = load(tmp_path, split_by="domain", meta_train=0.5, meta_validation=0.17)
    data.check(WITHIN, splits)
    left_out = [line for line in caplog.messages if "it is left out" in line]
    assert len(left_out) == 1
    assert "domain 'region1': 1 classes have the 3 examples of a task; way=2 needs 2" in left_out[0]
    data.check(WITHIN.model_copy(update={"unlabelled": 6, "test_unlabelled": 0}), splits, ["meta_test"])
    assert "have the 9 examples" not in caplog.text, "tests have no unlabelled images here"
    for part in ("meta_train", "meta_validation", "meta_test"):
        tasks = frozen.frozen(splits, part, WITHIN, 40, "search")  # type: ignore[arg-type]
        names = {getattr(splits, part).classes[row] for rows in frozen.classes_of(tasks) for row in rows}
        assert not names & {"region0/class3", *(f"region1/class{row}" for row in range(4))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 2}, r"2 domains \(region0, region1\); 3 splits need 3 or more; add domains"),
        ({"meta_train": 0.1, "meta_validation": 0.1}, "meta_validation has 0 domains and needs 1 or more"),
        ({"group": "[a-z](x)?"}, "184 names do not match, the first 'a0.png'"),
        ({"group": "("}, r"group='\(': is no regular expression"),
        ({"group": "[x-z]"}, "184 names do not match, the first 'a0.png'"),
    ],
)
def test_what_is_wrong_with_domains_and_groups_is_told(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    regions(tmp_path, options.pop("n", 6))  # type: ignore[arg-type]
    assert message.replace("\\", "") in refused(tmp_path, split_by="domain", **options)


def test_tasks_that_mix_domains_of_the_same_classes_are_refused(tmp_path: Path) -> None:
    splits = by_domain(tmp_path)
    with pytest.raises(MetabenchError, match="domains=any: the domains have the same classes"):
        data.check(WITHIN.model_copy(update={"domains": "any"}), splits)
    with pytest.raises(MetabenchError, match="labels=fixed with way=5: 4 classes in all; lower way"):
        data.check(WITHIN.model_copy(update={"way": 5, "labels": "fixed"}), splits)
    with pytest.raises(MetabenchError, match="meta_validation: domains=across: one domain"):
        data.check(WITHIN.model_copy(update={"domains": "across"}), splits)


def test_terrain_has_the_same_textures_in_regions_of_their_own() -> None:
    few = {"n_domains": 4, "n_examples": 3, "size": 16}
    splits = data.load(TaskConfig(dataset="terrain", options=few))
    assert splits.is_by_domain
    with pytest.raises(MetabenchError, match="domains=any: the domains have the same classes"):
        data.check(TaskConfig(dataset="terrain", way=2, query=1, test_query=1), splits)
    assert [len(set(part.domains)) for part in parts(splits)] == [2, 1, 1]
    assert {word for part in parts(splits) for word in part.words} == set(splits.meta_test.shared)
    by_class = data.load(TaskConfig(dataset="terrain", options={**few, "split_by": "class"}))
    words = [set(part.words) for part in parts(by_class)]
    assert [len(one) for one in words] == [4, 2, 2]
    assert len(set.union(*words)) == 8
    rows = {
        name: images
        for whole in (splits, by_class)
        for part in parts(whole)
        for name, images in zip(part.classes, part.images, strict=True)
    }
    for part in parts(splits):
        for name, images in zip(part.classes, part.images, strict=True):
            assert torch.equal(rows[name], images), "a cut changes no picture"


def test_drawers_are_domains_of_one_drawing_a_character(data_root: Path) -> None:
    if not data.get("omniglot").is_available(data_root):
        pytest.skip(f"no Omniglot under {data_root}")
    options = {"domain": "drawer", "rotations": False}
    task = TaskConfig(
        dataset="omniglot", options=options, way=20, shot=1, query=1, test_query=1, domains="across"
    )
    splits = data.load(task, data_root)
    data.check(task, splits)
    (group,) = frozen.frozen(splits, "meta_test", task, 5, "test").groups
    assert group.indices.query_classes is not None
    for rows, asked in zip(group.indices.classes.tolist(), group.indices.query_classes.tolist(), strict=True):
        pairs = [[splits.meta_test.classes[row].split("/", 1) for row in some] for some in (rows, asked)]
        assert [name for _, name in pairs[0]] == [name for _, name in pairs[1]]
        homes = [{drawer for drawer, _ in some} for some in pairs]
        assert [len(home) for home in homes] == [1, 1]
        assert homes[0] != homes[1]
    with pytest.raises(MetabenchError, match="are not the same class"):
        data.configure(task.model_copy(update={"options": {}}))


def test_data_that_are_only_tested_on_have_no_meta_train(tmp_path: Path) -> None:
    splits = load(regions(tmp_path, 2), split_by="domain", meta_train=0, meta_validation=0)
    assert [len(part.classes) for part in parts(splits)] == [0, 0, 7]
    data.check(WITHIN, splits, ["meta_test"])
    assert frozen.frozen(splits, "meta_test", WITHIN, 5, "test").hash
    with pytest.raises(MetabenchError, match="meta_train of folder/own has no classes, as its share is 0"):
        data.check(WITHIN, splits)


def arrays(root: Path, own_words: bool = False) -> dict[str, object]:
    """Keep an archive of six regions of two classes, two to a split; return the options that name it."""
    rows = [(region, word, copy) for region in range(6) for word in "ab" for copy in range(4)]
    words = [f"{word}{region // 2}" if own_words else word for region, word, _ in rows]
    named = {
        "labels": np.array(words),
        "region": np.array([f"r{region}" for region, _, _ in rows]),
        "split": np.array([SPLITS[region // 2] for region, _, _ in rows]),
        "images": np.arange(len(rows), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2),
    }
    np.savez(root / "mine.npz", **named)
    return arrays_of(root)


def arrays_of(root: Path) -> dict[str, object]:
    return {"path": str(root / "mine.npz"), "domain": "region"}


def of_arrays(options: dict[str, object], **more: object) -> Splits:
    return data.load(TaskConfig(dataset="array", options={**options, **more}))


def test_an_array_of_splits_says_which_domains_they_have(tmp_path: Path) -> None:
    splits = of_arrays(arrays(tmp_path), split_by="domain")
    homes = [sorted(set(part.domains)) for part in parts(splits)]
    assert homes == [["r0", "r1"], ["r2", "r3"], ["r4", "r5"]]
    there = dict(np.load(tmp_path / "mine.npz"))
    there["split"][-1] = "meta_train"
    np.savez(tmp_path / "mine.npz", **there)
    with pytest.raises(MetabenchError, match="domain 'r5' is in meta_train and in meta_test"):
        of_arrays(arrays_of(tmp_path), split_by="domain")


@pytest.mark.parametrize("option", ["domain", "group"])
def test_images_labels_and_splits_are_no_domains_or_groups(tmp_path: Path, option: str) -> None:
    with pytest.raises(MetabenchError, match=f"{option}='images': is not of its own"):
        of_arrays(arrays(tmp_path, own_words=True), **{option: "images"})


def test_classes_of_domains_are_compared_by_their_words(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match=r"class 'a' is in meta_train and in .*; split_by=domain"):
        of_arrays(arrays(tmp_path))
    splits = of_arrays(arrays(tmp_path, own_words=True))
    assert [set(part.words) for part in parts(splits)] == [{f"a{k}", f"b{k}"} for k in range(3)]
