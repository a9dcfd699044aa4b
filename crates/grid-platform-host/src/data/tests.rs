use std::{fs, os::unix::fs::symlink};

use super::*;

fn marker(owner: u8, id: &str) -> Marker {
    Marker {
        owner: OwnerId::from_bytes([owner; 16]),
        node_id: NodeId::new(id).unwrap(),
        uid: NodeUid::from_bytes([7; 16]),
    }
}

struct Ground {
    dir: tempfile::TempDir,
    config: Places,
}

fn ground() -> Ground {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let config = Places {
        state_dir: dir.path().join("state"),
        roots: vec![data.clone()],
        data_path: data,
    };
    Ground { dir, config }
}

impl Ground {
    fn site(&self, path: &str) -> Site {
        Site::of(&self.config, &self.config.data_path.join(path)).unwrap()
    }
}

#[test]
fn what_was_made_is_purged_and_only_for_its_own() {
    let ground = ground();
    let site = ground.site("a/b/n1");
    let mine = marker(1, "n1");
    assert!(site.ensure(&mine, None, true).unwrap());
    assert!(!site.ensure(&mine, None, true).unwrap());
    fs::write(site.path().join("file"), "x").unwrap();
    assert!(site.disk_bytes().unwrap() > 0);
    for other in [marker(2, "n1"), marker(1, "n2")] {
        let error = site.ensure(&other, None, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OwnedByOther);
        let error = site
            .purge(&other.owner, &other.node_id, &other.uid)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OwnedByOther);
    }
    assert!(site.path().join("file").exists());
    site.purge(&mine.owner, &mine.node_id, &mine.uid).unwrap();
    assert!(!site.path().exists());
    assert_eq!(
        fs::read_dir(site.path().parent().unwrap()).unwrap().count(),
        0
    );
    site.purge(&mine.owner, &mine.node_id, &mine.uid).unwrap();
}

#[test]
fn what_was_there_is_used_and_never_deleted() {
    let ground = ground();
    let site = ground.site("old");
    fs::create_dir(site.path()).unwrap();
    fs::write(site.path().join("file"), "x").unwrap();
    let mine = marker(1, "n1");
    assert!(!site.ensure(&mine, None, true).unwrap());
    site.purge(&mine.owner, &mine.node_id, &mine.uid).unwrap();
    assert!(site.path().join("file").exists());
    assert!(!site.path().join(MARKER).exists());
}

#[test]
fn links_files_and_other_roots_are_refused() {
    let ground = ground();
    let outside = ground.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, ground.config.data_path.join("link")).unwrap();
    fs::write(ground.config.data_path.join("file"), "").unwrap();
    for path in ["link", "link/n1", "file", "file/n1"] {
        let error = ground
            .site(path)
            .ensure(&marker(1, "n1"), None, true)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAllowed, "{path}");
        assert!(error.hint().is_some());
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let error = Site::of(&ground.config, &outside).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotAllowed);
}

#[test]
fn a_purge_that_was_interrupted_is_finished() {
    let ground = ground();
    let site = ground.site("n1");
    let mine = marker(1, "n1");
    site.ensure(&mine, None, true).unwrap();
    fs::rename(site.path(), ground.config.data_path.join(trash(&mine.uid))).unwrap();
    site.finish_purge(&mine.uid).unwrap();
    assert_eq!(fs::read_dir(&ground.config.data_path).unwrap().count(), 0);
}

#[test]
fn a_marker_that_cannot_be_understood_is_not_ours() {
    let ground = ground();
    let site = ground.site("n1");
    fs::create_dir(site.path()).unwrap();
    fs::write(site.path().join(MARKER), "{").unwrap();
    let error = site.ensure(&marker(1, "n1"), None, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OwnedByOther);
}

#[test]
fn kept_data_is_remembered_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let kept = KeptData::open(files::open_dir(dir.path()).unwrap()).unwrap();
    let mut entry = Kept {
        node_id: NodeId::new("n1").unwrap(),
        uid: NodeUid::from_bytes([7; 16]),
        path: "/data/n1".into(),
        purge: false,
    };
    kept.put(&entry).unwrap();
    entry.purge = true;
    kept.put(&entry).unwrap();
    assert_eq!(
        kept.all().unwrap().into_values().collect::<Vec<_>>(),
        [entry.clone()]
    );
    kept.forget(&entry).unwrap();
    assert!(kept.all().unwrap().is_empty());
}

#[test]
fn a_marker_that_lost_its_text_is_written_again() {
    let ground = ground();
    let site = ground.site("n1");
    let mine = marker(1, "n1");
    site.ensure(&mine, None, true).unwrap();
    fs::write(site.path().join(MARKER), "").unwrap();
    assert_eq!(site.look().unwrap(), Found::Blank);
    assert!(!site.ensure(&mine, None, true).unwrap());
    assert_eq!(site.look().unwrap(), Found::Marked(mine));
}

#[test]
fn what_was_made_on_the_way_goes_again() {
    let ground = ground();
    let site = ground.site("a/b/n1");
    fs::create_dir(ground.config.data_path.join("a")).unwrap();
    let missing = site.missing_parents();
    assert_eq!(missing, 1);
    let mine = marker(1, "n1");
    site.ensure(&mine, None, true).unwrap();
    site.purge(&mine.owner, &mine.node_id, &mine.uid).unwrap();
    site.remove_parents(missing);
    assert!(ground.config.data_path.join("a").exists());
    assert!(!ground.config.data_path.join("a/b").exists());
}

#[test]
fn the_state_is_no_place_for_data_however_wide_a_root_is() {
    let ground = ground();
    let state = ground.config.state_dir.clone();
    fs::create_dir(&state).unwrap();
    symlink(ground.dir.path(), ground.config.data_path.join("round")).unwrap();
    let round = ground.config.data_path.join("round");
    let config = Places {
        roots: vec!["/".into(), round.clone()],
        ..ground.config.clone()
    };
    let wide = Places {
        roots: vec![round.clone()],
        ..config.clone()
    };
    let check = |config: &Places, path: PathBuf, expect: bool| {
        let found = Site::of(config, &path).map(drop);
        assert_eq!(found.is_ok(), expect, "{}", path.display());
        if let Err(e) = found {
            assert_eq!(e.kind(), ErrorKind::NotAllowed);
            assert!(e.hint().is_some());
        }
    };
    check(&config, state.clone(), false);
    check(&config, state.join("nodes/sutra-grid-x"), false);
    check(&config, state.join("./bin"), false);
    check(&config, ground.dir.path().to_owned(), false);
    check(&config, ground.dir.path().join("state-2"), true);
    check(&wide, round.join("state/bin/x"), false);
    check(&wide, round.join("else"), true);
}

#[test]
fn a_directory_that_takes_the_name_during_a_purge_is_not_deleted() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let ground = ground();
    let site = ground.site("n1");
    let mine = marker(1, "n1");
    let other = ground.config.data_path.join("other");
    for _ in 0..100 {
        site.ensure(&mine, None, true).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("keep"), "x").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 {
                    // It fails once one of them is gone.
                    let _ = renameat_with(CWD, site.path(), CWD, &other, RenameFlags::EXCHANGE);
                }
            });
            // It succeeds or is refused, by who was under the name.
            let _ = site.purge(&mine.owner, &mine.node_id, &mine.uid);
        });
        let places = [site.path(), other.clone()];
        assert!(places.iter().any(|it| it.join("keep").exists()));
        for place in places.iter().filter(|it| it.exists()) {
            fs::remove_dir_all(place).unwrap();
        }
    }
}
