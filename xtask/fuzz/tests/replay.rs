//! Seeds and past crashers, as plain tests: a test per target, which is given each file once.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says over which file"
)]

use std::path::Path;

use grid_fuzz::TARGETS;

/// Runs a target over the files of one directory; how many there were.
fn replay(kind: &str, name: &str, target: fn(&[u8])) -> usize {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(name);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return 0;
    };
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("a directory that can be listed").path();
        // Shown by the test's failure.
        println!("{}", path.display());
        target(&std::fs::read(&path).expect("a file that can be read"));
        count += 1;
    }
    count
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            assert!(replay("seeds", stringify!($name), grid_fuzz::$name) > 0, "no seed");
            replay("crashers", stringify!($name), grid_fuzz::$name);
            grid_fuzz::$name(&[]);
        })*

        #[test]
        fn every_target_is_replayed_and_has_its_program() {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            for name in names {
                let program = format!("{}/targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                let text = std::fs::read_to_string(program).expect("a program of its name");
                assert!(text.contains(&format!("grid_fuzz::{name}(bytes)")), "{name}");
            }
        }
    };
}

targets!(record launch words object_key range settings cursor wire);
