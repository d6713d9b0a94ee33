"""A launch by the driver, with a driver that writes down what it is told."""

from __future__ import annotations

import ctypes
import re
import threading

import pytest

from rnnfast.cuda.launch import MOST_ARGUMENTS, Launcher


class Function:
    """A function of a library: ctypes sets its types."""

    def __init__(self, call):
        self.call = call

    def __call__(self, *given):
        return self.call(*given)


class Driver:
    """Answers with `status`, and keeps what was launched: the arguments as a device would read them."""

    def __init__(self):
        self.status, self.context, self.said = 0, 1, []
        self.cuLaunchKernel = Function(lambda *given: self._launched("plain", *given[:-1]))
        self.cuLaunchCooperativeKernel = Function(lambda *given: self._launched("cooperative", *given))
        self.cuCtxGetDevice = Function(self._device)
        self.cuGetErrorName = Function(self._name)
        self.cuKernelSetAttribute = Function(lambda *given: self.said.append(given) or self.status)
        self.cuOccupancyMaxActiveBlocksPerMultiprocessor = Function(self._occupancy)
        self.count = 1

    def _launched(self, how, *given):
        places = (ctypes.c_void_p * self.count).from_address(given[-1])
        self.said.append((how, *given[:-1], [ctypes.c_int64.from_address(place).value for place in places]))
        return self.status

    def _device(self, out):
        out._obj.value = 3
        return self.status if self.context else 201

    def _name(self, status, out):
        out._obj.value = b"CUDA_ERROR_OF_THIS_TEST"
        return 0

    def _occupancy(self, out, *given):
        out._obj.value = 2
        self.said.append(given)
        return self.status


@pytest.fixture
def driver():
    return Driver()


def test_the_driver_is_told_what_was_asked_for(driver):
    launcher, driver.count = Launcher(driver), 3
    launcher.launch(77, (2, 3), 64, (5, -6, 2**40), shared=8, stream=12, cooperative=True)
    driver.count = 2
    launcher.launch(78, 4, 32, [7, 8])
    assert driver.said == [
        ("cooperative", 77, 2, 3, 1, 64, 1, 1, 8, 12, [5, -6, 2**40]),
        ("plain", 78, 4, 1, 1, 32, 1, 1, 0, 0, [7, 8]),
    ]


def test_the_types_are_the_driver_s(driver):
    Launcher(driver)
    assert len(driver.cuLaunchKernel.argtypes) == 11
    assert len(driver.cuLaunchCooperativeKernel.argtypes) == 10
    assert driver.cuOccupancyMaxActiveBlocksPerMultiprocessor.argtypes[-1] is ctypes.c_size_t


def test_each_thread_has_arguments_of_its_own(driver):
    launcher, seen = Launcher(driver), []

    def other():
        launcher.launch(1, 1, 1, (2,))
        seen.append(launcher._arguments.at)

    launcher.launch(1, 1, 1, (1,))
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen[0] != launcher._arguments.at
    assert launcher._arguments.numbers[0] == 1


def test_as_many_arguments_as_there_are_places(driver):
    launcher, driver.count = Launcher(driver), MOST_ARGUMENTS
    launcher.launch(1, 1, 1, range(MOST_ARGUMENTS))
    assert driver.said[0][-1] == list(range(MOST_ARGUMENTS))
    with pytest.raises(ValueError, match="size"):
        launcher.launch(1, 1, 1, range(MOST_ARGUMENTS + 1))


@pytest.mark.parametrize(("status", "error"), [(1, RuntimeError), (2, MemoryError), (720, RuntimeError)])
def test_what_the_driver_refuses_is_an_error_with_its_name(driver, status, error):
    launcher, driver.status = Launcher(driver), status
    said = re.escape(f"the CUDA driver said CUDA_ERROR_OF_THIS_TEST ({status}) to ")
    for call in (
        lambda: launcher.launch(1, (5, 2), 64, (1,), cooperative=True),
        lambda: launcher.allow_shared(1, 0, 100_000),
        lambda: launcher.resident_blocks(1, 64, 0),
        launcher.device,
    ):
        with pytest.raises(error, match=said):
            call()


def test_a_thread_without_a_context_has_no_device(driver):
    launcher = Launcher(driver)
    assert launcher.device() == 3
    driver.context = 0
    assert launcher.device() == -1


def test_what_else_is_asked_of_the_driver(driver):
    launcher = Launcher(driver)
    assert launcher.resident_blocks(77, 256, 100_000) == 2
    launcher.allow_shared(77, 1, 100_000)
    assert driver.said == [(77, 256, 100_000), (8, 100_000, 77, 1)]
