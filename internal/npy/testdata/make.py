#!/usr/bin/env python3
"""Write the .npy files beside this script; npy_test.go knows their content."""

import pathlib

import numpy as np

here = pathlib.Path(__file__).parent
wide = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8 - 1
np.save(here / "f32_2x3x4.npy", wide)
np.save(here / "f16_2x3x4.npy", wide.astype(np.float16))
np.save(here / "bool_2x3x4.npy", wide > 0.5)
np.save(here / "f32_scalar.npy", np.float32(0.5))
np.save(here / "f16_5.npy", np.array([0, -0.0, 65504, np.inf, np.nan], np.float16))
np.save(here / "f32_0x3.npy", np.empty((0, 3), np.float32))
for version in (2, 3):
    with open(here / f"f32_version{version}.npy", "wb") as f:
        np.lib.format.write_array(f, wide, version=(version, 0))
# What Read refuses.
np.save(here / "bad_fortran.npy", np.asfortranarray(wide))
np.save(here / "bad_f64.npy", wide.astype(np.float64))
np.save(here / "bad_bigendian.npy", wide.astype(">f4"))
np.save(here / "bad_struct.npy", np.zeros(2, [("a", "<f4"), ("b", "<i4")]))
