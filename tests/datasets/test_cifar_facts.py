"""The facts of both data sets; how they are read is tested in tests/readers/."""

from __future__ import annotations

import pytest

from kdctl.datasets import cifar10, cifar100
from kdctl.protocols.dataset import datasets
from kdctl.readers.cifar import CifarFacts

BOTH = pytest.mark.parametrize("facts", [cifar10.FACTS, cifar100.FACTS], ids=lambda facts: facts.name)


@BOTH
def test_class_names_are_alphabetical(facts: CifarFacts) -> None:
    assert list(facts.class_names) == sorted(set(facts.class_names))


@BOTH
def test_both_have_fifty_thousand_training_and_ten_thousand_test_images(facts: CifarFacts) -> None:
    assert len(facts.class_names) * facts.train_per_class == 50_000
    assert len(facts.class_names) * facts.test_per_class == 10_000


@BOTH
def test_every_official_file_has_a_checksum(facts: CifarFacts) -> None:
    checksums = [file.md5 for file in facts.layout.files] + [facts.archive.md5]
    assert all(checksum is not None and len(checksum) == 32 for checksum in checksums)
    assert len(set(checksums)) == len(checksums)


@BOTH
def test_the_facts_belong_to_the_data_set_of_their_name(facts: CifarFacts) -> None:
    assert datasets.get(facts.name).item.published_fingerprint == facts.fingerprint
    assert datasets.get(facts.name).item.published_form == facts.form


def test_the_spellings_of_papers_are_understood() -> None:
    assert datasets.get("CIFAR-100").name == "cifar100"
    assert datasets.get("cifar 10").name == "cifar10"


def test_normalisation_is_that_of_the_public_distillation_code() -> None:
    assert cifar100.FACTS.mean == (0.5071, 0.4867, 0.4408)
    assert cifar100.FACTS.std == (0.2675, 0.2565, 0.2761)
    assert cifar10.FACTS.mean == (0.4914, 0.4822, 0.4465)
    assert cifar10.FACTS.std == (0.2470, 0.2435, 0.2616)
