//! What the references are known to do wrong, test by test.
//!
//! A row never concerns cowlfs. A row that always holds fails when its test passes, so the table
//! stays true.

use super::{Mode, Sut};

/// One known defect of a reference.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    sut: Sut,
    mode: Option<Mode>,
    test: &'static str,
    /// Whether the test fails every time, or only in some runs.
    pub always: bool,
    /// What the reference does.
    pub why: &'static str,
}

/// The row for a test, if the reference is known to fail it.
pub fn row(sut: Sut, mode: Mode, test: &str) -> Option<&'static Known> {
    TABLE.iter().find(|k| {
        k.sut == sut && k.mode.is_none_or(|m| m == mode) && test.split("::").any(|p| p == k.test)
    })
}

const NO_INDEX: &str = "without index, hard links of lower files break at copy-up";
const NO_WRITEBACK: &str = "copies up at open, refuses at write: fsync has nothing to say";
const NO_REDIRECT: &str = "directories of lower layers do not rename in a user namespace";

const TABLE: &[Known] = &[
    always(Sut::Overlay, "d30_old_mapping_sees_a_write", "a mapping made before copy-up stays"),
    always(
        Sut::Overlay,
        "d06_read_only_handle_of_an_unlinked_lower_file",
        "fstat shows the lower inode, which still has its name",
    ),
    always(
        Sut::Overlay,
        "d38_layers_without_xattrs_and_acls",
        "d_ino and st_ino differ over layers of several filesystems",
    ),
    always(Sut::Overlay, "a_file_that_cannot_be_read_to_its_end", "reads ahead into the fault"),
    always(Sut::Overlay, "a_link_that_cannot_be_read", "d_ino and st_ino differ"),
    always(Sut::Overlay, "a_write_that_cannot_copy_up_is_reported", NO_WRITEBACK),
    always(Sut::Overlay, "a_program_that_fills_the_disk_is_told", NO_WRITEBACK),
    always(Sut::Overlay, "what_could_not_be_stored_is_not_shown", NO_WRITEBACK),
    always(Sut::Overlay, "everything_fails_at_once_and_unmounts", "ESTALE for what was cached"),
    Known {
        sut: Sut::Overlay,
        mode: None,
        test: "a_quota_is_a_full_disk",
        always: false,
        why: "mounts read-only when its workdir cannot be made",
    },
    always(Sut::Overlay, "direct_and_cached_writes_meet", "ext4 wants aligned memory"),
    always(Sut::Overlay, "holes_of_lower_and_upper_together", "fills part of the holes"),
    always(Sut::Overlay, "lower_on_squashfs", "d_ino and st_ino differ over several filesystems"),
    userns("sixty_levels", NO_REDIRECT),
    userns("events_over_copy_up", NO_REDIRECT),
    always(Sut::Overlay, "d36_five_hundred_layers", "mount data is one page"),
    userns("d07_lower_hard_links_stay_one_file", NO_INDEX),
    userns("d07_open_handle_of_one_name_sees_a_write_by_another", NO_INDEX),
    userns("d07_rename_of_a_linked_name", NO_INDEX),
    userns("d07_unlinking_one_name_keeps_the_others", NO_INDEX),
    userns("d23_hard_links_cost_constant_time", NO_INDEX),
    userns("d08_inode_numbers_survive_copy_up_and_remount", "no origin in a user namespace"),
    userns("d39_dotdot_is_the_real_parent", NO_REDIRECT),
    userns("d39_live_tree_is_the_remounted_tree", NO_INDEX),
    userns("d41_deep_trees_in_a_lower", NO_REDIRECT),
    userns("d14_exchange_of_a_lower_directory_and_a_file", NO_REDIRECT),
    userns("d29_children_of_a_renamed_directory_rename_too", NO_REDIRECT),
    userns("d29_open_handles_follow_a_renamed_directory", NO_REDIRECT),
    userns("d29_rename_of_a_lower_directory", NO_REDIRECT),
    userns("d29_two_lower_directories_swap_places", NO_REDIRECT),
    userns("a_link_keeps_attributes", NO_INDEX),
    userns("links_of_every_kind", NO_INDEX),
    userns("symlink_targets", NO_INDEX),
    userns("a_tree_replaced_again_and_again", NO_REDIRECT),
    userns("directories_move_into_each_other", NO_REDIRECT),
    userns("every_pair", NO_REDIRECT),
    userns("every_pair_exchange", NO_REDIRECT),
    userns("every_pair_noreplace", NO_REDIRECT),
    userns("killed_at_any_moment", NO_REDIRECT),
    userns("model_userns", NO_REDIRECT),
    userns("model_on_disk_userns", NO_INDEX),
    userns("model_long_userns", NO_REDIRECT),
    userns("churn_userns", NO_INDEX),
    userns("d26_rename_of_a_directory_copies_nothing", NO_REDIRECT),
    userns("history_is_rewritten_over_a_lower_repository", NO_REDIRECT),
    userns("an_ordinary_user_works_on_a_lower_repository", NO_REDIRECT),
];

const fn always(sut: Sut, test: &'static str, why: &'static str) -> Known {
    Known { sut, mode: None, test, always: true, why }
}

/// Kernel overlayfs in a user namespace, where it has neither redirects nor an index.
const fn userns(test: &'static str, why: &'static str) -> Known {
    Known { sut: Sut::Overlay, mode: Some(Mode::UserNs), test, always: true, why }
}
