"""The extension, for the stable ABI: it costs nothing here."""  # noqa: INP001

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "aioioth_speedups._moving",
            ["src/module.c", "src/sender.c", "src/receiver.c"],
            depends=["src/frames.h", "src/movers.h"],
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra"],
            py_limited_api=True,
        )
    ],
    # One wheel for every Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
