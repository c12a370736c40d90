//! The replica's disk: unmounted, in the place of another, or another in its place. By root.

use crate::support::script::{assert_said, lines, script_each_way};
use crate::support::{Scratch, Tree};

#[test]
fn nothing_is_written_beneath_a_bind_mount_that_held_the_replica() {
    script_each_way(
        || Scratch::new().with_source(&Tree::new().file("a", "a")),
        r#"
        mkdir -p disk/data mnt/data
        ln -s mnt/data replica
        mount --bind disk mnt
        start_settled $HOW 0.3
        unmount mnt
        until_true '[ $(count "disk is gone" err) -ge 1 ]'
        holds '[ -z "$(ls -A mnt/data)" ]'
        mount --bind disk mnt
        touch source/b
        until_true '[ -e disk/data/b ]'
        stop
        "#,
        |run| assert_said(run, &["code: 0"]),
    );
}

#[test]
fn another_disk_in_the_place_of_the_replicas_is_left_alone_unless_it_is_empty() {
    script_each_way(
        || Scratch::new().with_source(&Tree::new().file("a", "a")).with_replica(&Tree::new()),
        r#"
        mount -t tmpfs none replica
        start_settled $HOW 0.3
        mkdir elsewhere
        mount -t tmpfs none elsewhere
        touch elsewhere/theirs
        unmount replica
        mount --move elsewhere replica
        until_true '[ $(count "is not the replica" err) -ge 1 ]'
        holds '[ "$(list theirs replica)" = "theirs: ./theirs " ]'
        unmount replica
        mount -t tmpfs none replica
        until_true '[ -e replica/a ]'
        stop
        "#,
        |run| assert_said(run, &["code: 0"]),
    );
}

#[test]
fn a_disk_that_was_made_in_the_same_second_as_the_replicas_is_not_taken_for_it() {
    script_each_way(
        || Scratch::new().with_source(&Tree::new().file("a", "a")).with_replica(&Tree::new()),
        r#"
        for disk in own other; do
            truncate -s 20M $disk
            # Another second than that of the script beside this one, whose lock would else have the same name.
            E2FSPROGS_FAKE_TIME=$((1700000000 + $$)) mkfs.ext4 -q -F $disk && mount -o loop $disk replica ||
                { echo "lacking: ext4 in an image" >&2; exit; }
            echo $disk >replica/a
            stat -c '%i %W' replica >$disk.birth
            umount replica
        done
        cmp own.birth other.birth
        mount -o loop own replica
        start_settled $HOW 0.3
        unmount replica
        mount -o loop other replica
        until_true '[ $(count "is not the replica" err) -ge 1 ]'
        holds '[ "$(cat replica/a)" = other ]'
        unmount replica
        echo b >source/b
        mount -o loop own replica
        until_true '[ -e replica/b ]'
        stop
        "#,
        |run| assert_said(run, &["code: 0"]),
    );
}

/// Two disks, one after the other under one device number, on a file system without birth times:
/// both hold another file `a`. `$1` is what makes an image of it, `$2` what mounts it. The replica
/// lies on the first.
const WITHOUT_BIRTH: &str = r#"
    mkdir made
    disks() {
        make=$1 mounter=$2
        for disk in own other; do
            truncate -s 20M $disk
            $make $disk >made.log 2>&1 || { echo "lacking: $make" >&2; exit; }
            attach $disk
            use=$loop
            $mounter $use made 2>>made.log || { losetup -d $use; echo "lacking: $mounter" >&2; exit; }
            echo $disk >made/a
            umount made
            # Once only: the next one may be somebody else's.
            losetup -d $use
            until_true '! losetup -l -n -O BACK-FILE | grep -qx "$PWD/$disk"'
        done
        cp own image
        attach image
        use=$loop
        trap 'losetup -d $use' EXIT
    }
    # After a while, since what serves it may still write.
    change() {
        until_true '! pgrep -f "[ ]$use " >/dev/null'
        dd if=$1 of=$use bs=1M conv=fsync 2>dd.log
    }
    end() { stop; umount replica; losetup -d $use; }
"#;

#[test]
fn a_disk_that_nothing_tells_from_another_is_left_alone_until_twindir_is_restarted() {
    let text = r#"
        disks "mkfs.ntfs -q -F" ntfs-3g
        ntfs-3g $use replica
        start $HOW 0.3
        trap 'kill $pid; umount replica; losetup -d $use' EXIT
        until_true '[ $(count synced out) -ge 1 ]'
        unmount replica
        until_true '[ $(count "is gone" err) -ge 1 ]'
        change other
        ntfs-3g $use replica
        until_true '[ $(count "does not tell from another" err) -ge 1 ]'
        holds '[ "$(cat replica/a)" = other ]'
        cat err >&2
        stop
        start $HOW 0.3
        trap 'kill $pid; umount replica; losetup -d $use' EXIT
        until_true '[ "$(cat replica/a)" = a ]'
        end
    "#;
    script_each_way(
        || Scratch::new().with_source(&Tree::new().file("a", "a")).with_replica(&Tree::new()),
        &format!("{WITHOUT_BIRTH}{text}"),
        |run| {
            assert_said(run, &["code: 0", "code: 0"]);
            let said = lines(run, "does not tell from another");
            assert!(
                said[0].ends_with("If what is at that path now is meant, restart twindir"),
                "{run}"
            );
        },
    );
}

#[test]
fn a_disk_without_birth_times_is_known_by_its_uuid() {
    let text = r#"
        disks "mkfs.ext4 -q -F -I 128" mount
        mount $use replica
        start $HOW 0.3
        trap 'kill $pid; umount replica; losetup -d $use' EXIT
        until_true '[ $(count synced out) -ge 1 ]'
        unmount replica
        cp image own
        change other
        mount $use replica
        until_true '[ $(count "another disk is mounted" err) -ge 1 ]'
        holds '[ "$(cat replica/a)" = other ]'
        unmount replica
        change own
        echo b >source/b
        mount $use replica
        until_true '[ -e replica/b ]'
        end
    "#;
    script_each_way(
        || Scratch::new().with_source(&Tree::new().file("a", "a")).with_replica(&Tree::new()),
        &format!("{WITHOUT_BIRTH}{text}"),
        |run| assert_said(run, &["code: 0"]),
    );
}

/// Other disks may have the numbers of the devices by then.
#[test]
fn two_disks_that_come_back_under_each_others_numbers_are_taken_up_again() {
    script_each_way(
        || Scratch::new().with_source(&Tree::new()).with_replica(&Tree::new()),
        r#"
        truncate -s 20M ours theirs
        mkfs.ext4 -q -F ours && mkfs.ext4 -q -F theirs || { echo "lacking: ext4 in an image" >&2; exit; }
        attach ours
        one=$loop
        attach theirs
        other=$loop
        mount $one source
        mount $other replica
        echo a >source/a
        start $HOW 0.3
        trap 'kill $pid; umount source replica; losetup -d $one $other' EXIT
        until_true '[ $(count synced out) -ge 1 ]'
        unmount source
        unmount replica
        until_true '[ $(count "is unmounted" err) -ge 1 ] && [ $(count "is gone" err) -ge 1 ]'
        cp ours first
        cp theirs second
        dd if=second of=$one bs=1M conv=fsync 2>dd.log
        dd if=first of=$other bs=1M conv=fsync 2>>dd.log
        mount $one replica
        mount $other source
        echo b >source/b
        until_true '[ -e replica/b ]'
        list both replica
        stop
        umount source replica
        losetup -d $one $other
        "#,
        |run| assert_said(run, &["both: ./a ./b ./lost+found", "code: 0"]),
    );
}
