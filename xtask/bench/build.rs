//! Compiles the program that is started as a node and by the peers (`program/main.rs`): with `rustc` alone, because it
//! is without std and cargo builds no such target in a workspace whose other programs unwind.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=program");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("`OUT_DIR` is not set")?).join("program");
    let mut rustc = Command::new(env::var_os("RUSTC").ok_or("`RUSTC` is not set")?);
    rustc
        .args(["--edition", "2024", "--crate-name", "program"])
        .args(["--crate-type", "bin", "--target"])
        .arg(env::var_os("TARGET").ok_or("`TARGET` is not set")?);
    let options = [
        "panic=abort",
        "opt-level=s",
        "strip=symbols",
        "relocation-model=static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
    ];
    for option in options {
        rustc.args(["-C", option]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.arg("-o").arg(out).arg("program/main.rs").status()?;
    if !status.success() {
        return Err("the program that is started does not compile".into());
    }
    Ok(())
}
