import torch

from benchmarks.batches import NumberedBatches


def test_the_numbers_are_those_of_the_images_in_each_epoch():
    pixels = torch.randn(11, 3)
    batches = NumberedBatches(pixels, 4)
    for index in range(3):
        for images, numbers in zip(batches.images(index), batches.numbers(index), strict=True):
            assert torch.equal(images, pixels[numbers])
    assert not torch.equal(batches.numbers(0), batches.numbers(1))
