//! This command as an image: what nodes of a local grid run on a platform of containers when their request names none.
//!
//! The image is a file in the format of `docker save`, FROM scratch: this program, and the libraries that it has mapped,
//! from where it runs. So a grid on containers needs no registry and nothing that was built before.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Where the program is in the image.
const PROGRAM: &str = "grid";
/// The user of the image, who has no name: what others call `nonroot`.
const USER: &str = "65532:65532";
const BLOCK: u64 = 512;

/// An image and the file that holds it.
#[derive(Clone, Debug)]
pub(crate) struct OwnImage {
    /// Its reference. Another build of the program has another one.
    pub(crate) name: String,
    pub(crate) archive: PathBuf,
}

impl OwnImage {
    /// The image of the program `exe`, whose file is or will be in `dir`.
    pub(crate) fn of(exe: &Path, dir: &Path) -> io::Result<Self> {
        let about = fs::metadata(exe)?;
        let tag = Sha256::new()
            .chain_update(env!("CARGO_PKG_VERSION"))
            .chain_update(about.len().to_le_bytes())
            .chain_update(about.mtime().to_le_bytes())
            .chain_update(about.mtime_nsec().to_le_bytes())
            .finalize();
        let tag = hex(&tag[..6]);
        Ok(Self {
            name: format!("sutra-grid/up:{tag}"),
            archive: dir.join(format!("image-{tag}.tar")),
        })
    }

    /// Makes the file, unless it is there; files of earlier builds go.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn make(&self, exe: &Path) -> Result<()> {
        if self.archive.exists() {
            return Ok(());
        }
        let fault = |error: io::Error| {
            Error::io("write", &self.archive, &error)
                .with_hint("Free some disk space: the image of the storage server takes about as much as `grid` itself.")
        };
        let fresh = self.archive.with_extension("new");
        let write = || {
            let mut files = BTreeMap::from([(PROGRAM.to_owned(), exe.to_owned())]);
            files.extend(libraries(&fs::read_to_string("/proc/self/maps")?, exe));
            self.forget_earlier()?;
            let mut file = BufWriter::new(File::create(&fresh)?);
            write_image(&mut file, &self.name, &files)?;
            file.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .sync_all()?;
            fs::rename(&fresh, &self.archive)
        };
        write().map_err(fault)
    }

    fn forget_earlier(&self) -> io::Result<()> {
        let Some(dir) = self.archive.parent() else {
            return Ok(());
        };
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("image-") && (name.ends_with(".tar") || name.ends_with(".new")) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The libraries and the loader that a process has mapped, by their places in the image. A program that is linked
/// statically has none.
fn libraries(maps: &str, exe: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for line in maps.lines() {
        // address, rights, offset, device, inode, path
        let mut fields = line.split_whitespace();
        let (rights, path) = (fields.nth(1), fields.nth(3));
        let (Some(rights), Some(path)) = (rights, path) else {
            continue;
        };
        let path = Path::new(path);
        let Some(name) = path.file_name().and_then(|it| it.to_str()) else {
            continue;
        };
        if !rights.contains('x') || !path.is_absolute() || path == exe || !name.contains(".so") {
            continue;
        }
        found.insert(format!("lib/{name}"), path.to_owned());
        if name.starts_with("ld-") {
            // Where programs name their loader depends on the machine: one of these two.
            found.insert(format!("lib64/{name}"), path.to_owned());
        }
    }
    found
}

/// Writes what `docker load` reads: one layer of the files, its configuration, and the list of both.
fn write_image(
    out: &mut impl Write,
    name: &str,
    files: &BTreeMap<String, PathBuf>,
) -> io::Result<()> {
    let mut sized = Vec::new();
    for (place, path) in files {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        sized.push((place, file, size));
    }
    let blocks: u64 = sized.iter().map(|(.., size)| BLOCK + padded(*size)).sum();
    let layer_size = blocks + 2 * BLOCK;
    header(out, "layer.tar", 0o644, layer_size)?;
    let mut layer = Hashed {
        out: &mut *out,
        hash: Sha256::new(),
    };
    for (place, file, size) in sized {
        entry(&mut layer, place, 0o755, file, size)?;
    }
    layer.write_all(&[0; 2 * BLOCK as usize])?;
    let layer_id = hex(&layer.hash.finalize());
    let config = serde_json::json!({
        "architecture": match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": [format!("/{PROGRAM}")],
            // Each loader has its own idea of the usual places.
            "Env": ["LD_LIBRARY_PATH=/lib"],
            "User": USER,
            "Labels": {"sutra.image": "up"},
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_id}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "grid up"}],
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
    let manifest = serde_json::json!([{
        "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"],
    }])
    .to_string();
    for (place, text) in [
        (config_name.as_str(), &config),
        ("manifest.json", &manifest),
    ] {
        entry(out, place, 0o644, text.as_bytes(), text.len() as u64)?;
    }
    out.write_all(&[0; 2 * BLOCK as usize])
}

/// Counts what is written into a digest.
struct Hashed<'a, W> {
    out: &'a mut W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK)
}

fn entry(
    out: &mut impl Write,
    place: &str,
    mode: u32,
    content: impl Read,
    size: u64,
) -> io::Result<()> {
    header(out, place, mode, size)?;
    let copied = io::copy(&mut content.take(size), out)?;
    if copied != size {
        return Err(io::Error::other(format!(
            "`{place}` changes while it is read"
        )));
    }
    let rest = usize::try_from(padded(size) - size).unwrap_or_default();
    out.write_all(&[0; BLOCK as usize][..rest])
}

/// The block before a file in a tar archive, as POSIX has it (ustar), of root and without a time.
fn header(out: &mut impl Write, place: &str, mode: u32, size: u64) -> io::Result<()> {
    let mut block = [0_u8; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    if place.len() > 100 || size >= 1 << 33 {
        return Err(io::Error::other(format!(
            "`{place}` does not go into an archive"
        )));
    }
    put(0, place.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&block)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_process_has_mapped_is_found() {
        let maps = "\
            55d0-55d1 r--p 00000000 fe:01 11 /opt/grid\n\
            55d1-55d2 r-xp 00001000 fe:01 11 /opt/grid\n\
            7f00-7f01 r-xp 00001000 fe:01 12 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f01-7f02 r--p 00001000 fe:01 13 /usr/lib/x86_64-linux-gnu/libm.so.6\n\
            7f02-7f03 r-xp 00001000 fe:01 14 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n\
            7f03-7f04 rw-p 00000000 00:00 0 [heap]\n\
            7f04-7f05 r-xp 00000000 00:00 0 [vdso]\n\
            7f05-7f06 rw-p 00000000 00:00 0 \n";
        let found: Vec<_> = libraries(maps, Path::new("/opt/grid"))
            .into_keys()
            .collect();
        assert_eq!(
            found,
            [
                "lib/ld-linux-x86-64.so.2",
                "lib/libc.so.6",
                "lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert!(libraries("", Path::new("/opt/grid")).is_empty());
    }

    #[test]
    fn an_archive_holds_what_a_load_reads() {
        let dir = tempfile::tempdir().unwrap();
        let exe = std::env::current_exe().unwrap();
        let image = OwnImage::of(&exe, dir.path()).unwrap();
        fs::write(dir.path().join("image-0.tar"), "").unwrap();
        image.make(&exe).unwrap();
        image.make(&exe).unwrap();
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|it| it.unwrap().path())
            .collect();
        assert_eq!(
            names,
            std::slice::from_ref(&image.archive),
            "an earlier one is gone"
        );

        let tar = |args: &[&str]| {
            let output = Command::new("tar")
                .current_dir(dir.path())
                .args(args)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let archive = image.archive.to_str().unwrap();
        tar(&["-xf", archive]);
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap()
        };
        let manifest = read("manifest.json");
        assert_eq!(manifest[0]["RepoTags"][0], image.name.as_str());
        let config = read(manifest[0]["Config"].as_str().unwrap());
        let layer = fs::read(dir.path().join("layer.tar")).unwrap();
        let id = format!("sha256:{}", hex(&Sha256::digest(&layer)));
        assert_eq!(config["rootfs"]["diff_ids"][0], id.as_str());
        let listed = tar(&["-tf", "layer.tar"]);
        let mut places = listed.lines();
        assert_eq!(places.next(), Some("grid"));
        assert!(places.all(|it| it.starts_with("lib")), "{listed}");
        tar(&["-xf", "layer.tar"]);
        assert!(fs::read(dir.path().join("grid")).unwrap() == fs::read(&exe).unwrap());
    }
}
