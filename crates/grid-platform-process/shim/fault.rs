//! Places where a test lets a step fail, as `grid_platform_api::fault` has them; nothing in a build without the feature.

use std::io;

#[cfg(not(fault_points))]
#[inline(always)]
pub(crate) fn point(_name: &str) -> io::Result<()> {
    Ok(())
}

/// A point of this name: passed, unless it is armed in the directory that the second argument names.
#[cfg(fault_points)]
pub(crate) fn point(name: &str) -> io::Result<()> {
    let Some(dir) = std::env::args_os().nth(2).map(std::path::PathBuf::from) else {
        return Ok(());
    };
    let met = format!("{name}.{}.{:?}", std::process::id(), std::time::Instant::now());
    let met = dir.join("fault-points-met").join(met.replace(' ', ""));
    if std::fs::rename(dir.join("fault-points-armed").join(name), &met).is_err() {
        return Ok(());
    }
    let order = std::fs::read_to_string(&met)?;
    let (what, number) = order.split_once(' ').unwrap_or((&order, "0"));
    let number: u32 = number.trim().parse().map_err(io::Error::other)?;
    match what {
        "abort" => std::process::abort(),
        "stall" => std::thread::sleep(std::time::Duration::from_millis(number.into())),
        _ => return Err(io::Error::from_raw_os_error(number as i32)),
    }
    Ok(())
}
