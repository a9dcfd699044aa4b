//! Compiles the probe, which the library carries in its bytes, so that who runs the suite has nothing to build,
//! to find or to keep in step.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=probe");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("grid-probe");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "grid_probe",
            "--target",
            &target,
        ])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        // Static, so that it runs in an image that holds nothing else.
        .args(["-C", "target-feature=+crt-static"])
        .arg("-o")
        .args([&out, &PathBuf::from("probe/main.rs")])
        .status()
        .expect("rustc can be run");
    assert!(status.success(), "the probe does not compile");
}
