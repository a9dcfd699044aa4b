//! Compiles the probe, which the library carries in its bytes, so that who runs the suite has nothing to build,
//! to find or to keep in step.

use std::{env, error::Error, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=probe");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("grid-probe");
    let status = Command::new(env::var("RUSTC")?)
        .args(["--edition", "2024", "--crate-name", "grid_probe"])
        .args(["--target", &env::var("TARGET")?])
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
        .status()?;
    if !status.success() {
        return Err("the probe does not compile".into());
    }
    Ok(())
}
