//! Compiles the shim (`shim/main.rs`) so that the crate can carry it: a program of its own, with `rustc` alone, because it has no dependencies.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=shim");
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("`OUT_DIR` is not set")?);
    let shim = out.join("sutra-grid-shim");
    let mut rustc = Command::new(env::var_os("RUSTC").ok_or("`RUSTC` is not set")?);
    rustc.args([
        "--edition",
        "2024",
        "--crate-name",
        "sutra_grid_shim",
        "--crate-type",
        "bin",
        "--target",
    ]);
    rustc.arg(env::var_os("TARGET").ok_or("`TARGET` is not set")?);
    for option in [
        "opt-level=z",
        "lto=fat",
        "panic=abort",
        "codegen-units=1",
        "strip=symbols",
        "debuginfo=0",
    ] {
        rustc.args(["-C", option]);
    }
    if env::var_os("CARGO_FEATURE_FAULT_POINTS").is_some() {
        rustc.args(["--cfg", "fault_points"]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    rustc.arg("-o").arg(&shim).arg("shim/main.rs");
    let output = rustc.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the shim does not compile:\n{told}").into());
    }
    // Nothing of cargo shows what a program compiled here is warned of.
    for line in told.lines().filter(|it| !it.trim().is_empty()) {
        println!("cargo::warning={line}");
    }
    println!("cargo::rustc-env=SUTRA_GRID_SHIM={}", shim.display());
    Ok(())
}
