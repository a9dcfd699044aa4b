//! Places where a test lets a step fail: compiled in by the feature `fault-points` alone, and nothing without it.
//!
//! Who arms a point puts a file of its name into `fault-points-armed` under a directory that the program was told of
//! by `arm`. The first to come by takes the file, by a rename into `fault-points-met`, which is the proof that the
//! point was met, and does what the file says: `abort` ends the process with no clean-up, `error NUMBER` fails with
//! that number of errno(3), `stall MS` waits so long and goes on.
//!
//! What takes more than a test writes or waits for can be made smaller there too: see [`figure`].

#[cfg(not(feature = "fault-points"))]
use std::io;

/// A point of this name. Without the feature it is always passed.
///
/// # Errors
/// The one that the point was armed with.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &str) -> io::Result<()> {
    Ok(())
}

/// A figure that takes the place of a setting that nobody else can change. Without the feature there is none.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn figure(_name: &str) -> Option<u64> {
    None
}

#[cfg(feature = "fault-points")]
pub use armed::{arm, dir, figure, point};

#[cfg(feature = "fault-points")]
mod armed {
    use std::{
        fs, io,
        path::{Path, PathBuf},
        process,
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
        thread,
        time::Duration,
    };

    static DIR: OnceLock<PathBuf> = OnceLock::new();

    /// Says where this process looks for points that are armed. The first call counts.
    pub fn arm(dir: impl Into<PathBuf>) {
        // Told twice, the process goes on with what it was told first.
        let _ = DIR.set(dir.into());
    }

    /// What [`arm`] was told, for programs that this one starts.
    pub fn dir() -> Option<&'static Path> {
        DIR.get().map(PathBuf::as_path)
    }

    /// What a file of this name holds, in the directory that [`arm`] was told of.
    pub fn figure(name: &str) -> Option<u64> {
        let text = fs::read_to_string(dir()?.join(name)).ok()?;
        text.trim().parse().ok()
    }

    /// A point of this name: passed, unless it is armed.
    ///
    /// # Errors
    /// The one that the point was armed with.
    pub fn point(name: &str) -> io::Result<()> {
        match dir() {
            Some(dir) => meet(dir, name),
            None => Ok(()),
        }
    }

    pub(super) fn meet(dir: &Path, name: &str) -> io::Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let met = format!("{name}.{}.{count}", process::id());
        let met = dir.join("fault-points-met").join(met);
        // One of those who come by at the same time has it.
        if fs::rename(dir.join("fault-points-armed").join(name), &met).is_err() {
            return Ok(());
        }
        let order = fs::read_to_string(&met)?;
        tracing::warn!(point = name, order, "met an armed fault point");
        let (what, number) = order.split_once(' ').unwrap_or((&order, "0"));
        let number: u32 = number.trim().parse().map_err(io::Error::other)?;
        match what {
            "abort" => process::abort(),
            "stall" => thread::sleep(Duration::from_millis(number.into())),
            "error" => {
                let errno = i32::try_from(number).map_err(io::Error::other)?;
                return Err(io::Error::from_raw_os_error(errno));
            }
            _ => return Err(io::Error::other(format!("`{order}` is no order"))),
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "fault-points"))]
mod tests {
    use std::fs;

    use super::armed::meet;

    #[test]
    fn a_point_is_met_once_and_leaves_a_proof() {
        let dir = std::env::temp_dir().join(format!("fault-points-{}", std::process::id()));
        let (armed, met) = (dir.join("fault-points-armed"), dir.join("fault-points-met"));
        fs::create_dir_all(&armed).unwrap();
        fs::create_dir_all(&met).unwrap();
        meet(&dir, "here").unwrap();
        fs::write(armed.join("here"), "error 28").unwrap();
        meet(&dir, "there").unwrap();
        assert_eq!(meet(&dir, "here").unwrap_err().raw_os_error(), Some(28));
        meet(&dir, "here").unwrap();
        assert_eq!(fs::read_dir(met).unwrap().count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }
}
