"""The batches of the measure: every probe in every round, ever other companions, the same for everybody."""
import pytest
import torch

from iebn_zoo.data.images import open_images
from iebn_zoo.studies.noise.probes import ProbeBatches
from iebn_zoo.util.errors import UsageError
from tests.studies.noise.test_mixing import CONFIG


@pytest.fixture
def probe_batches(image_folder, data_args):
    images = open_images('', str(image_folder), True)  # 48

    def make(*flags, probes=5, rounds=3):
        return ProbeBatches(images, probes, rounds, data_args(*flags), CONFIG, torch.device('cpu'))
    return make


def test_each_probe_is_once_in_each_round_and_its_companions_change(probe_batches):
    found = list(probe_batches())
    assert [len(ids) for _, ids in found] == [2, 2, 1] * 3 and all(len(images) == 16 for images, _ in found)
    met = {i: [] for i in range(5)}
    for images, ids in found:
        for row, i in enumerate(ids.tolist()):
            met[i].append((images[row], images[len(ids):].sum().item()))
    for meetings in met.values():
        assert len(meetings) == 3 and len({companions for _, companions in meetings}) == 3
        assert all(torch.equal(image, meetings[0][0]) for image, _ in meetings)
    probes = [met[i][0][0] for i in met]
    assert not any(torch.equal(p, image) for images, ids in found for image in images[len(ids):] for p in probes)


def test_the_seed_fixes_them_and_the_generators_are_left(probe_batches):
    before = torch.get_rng_state()
    a, b, other = probe_batches(), probe_batches(), probe_batches('--seed', '7')
    first = [images for images, _ in a]
    assert all(torch.equal(x, y) for x, (y, _) in zip(first, b, strict=True))
    assert all(torch.equal(x, y) for x, (y, _) in zip(first, a, strict=True))  # in each epoch again
    assert not torch.equal(first[0], next(iter(other))[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_too_many_or_too_few(probe_batches):
    with pytest.raises(UsageError, match='--batch-noise is 33, expected 2 to 32'):
        probe_batches(probes=33)
    with pytest.raises(UsageError, match='--batch-noise is 1'):
        probe_batches(probes=1)
