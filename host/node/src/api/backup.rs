//! `/v1/backup`: backups of this node's store.

use axum::Json;
use axum::extract::State;

use super::app::App;
use super::error::ApiError;
use super::gate::Admin;
use crate::api_types::{BackupBody, BackupFileBody};
use crate::backup::{NotBegun, Report};

pub(super) async fn get(_: Admin, State(app): State<App>) -> Json<BackupBody> {
    Json(body(app.shared.backups.report()))
}

pub(super) async fn post(_: Admin, State(app): State<App>) -> Result<Json<BackupBody>, ApiError> {
    match app.shared.backups.begin("asked for", app.shared.now().wall_ms) {
        Ok(()) => Ok(Json(body(app.shared.backups.report()))),
        Err(NotBegun::Off) => {
            Err(ApiError::conflict("backups-off", "this node keeps no backups (`backup.keep` is 0)"))
        }
        Err(NotBegun::Busy) => {
            Err(ApiError::unavailable("overloaded", "a backup is under way: see `GET /v1/backup`"))
        }
    }
}

fn body(report: Report) -> BackupBody {
    let last = report.last.map(|(backup, took_ms)| BackupFileBody {
        file: backup.path.display().to_string(),
        epoch: backup.header.epoch.0,
        global_final_index: backup.header.last_final.0,
        bytes: backup.bytes,
        hash: backup.hash.to_string(),
        took_ms,
    });
    BackupBody {
        running: report.running.is_some(),
        written_bytes: report.running.unwrap_or(0),
        made: report.made,
        failed: report.failed,
        last,
        problem: report.problem,
    }
}
