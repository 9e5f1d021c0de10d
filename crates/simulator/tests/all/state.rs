//! What is done stays done.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use simulator::{CloudKind, Setup, Simulator};
use std::time::Duration;
use taskcluster_api::worker_manager::{
    Archived, CreateWorker, CreateWorkerPool, ProviderInfo, QueueWorkerFilter, UpdateWorkerPool, WorkerFilter,
    WorkerPoolErrorFilter,
};
use taskcluster_api::{
    RegisterWorker, ReportWorkerError, ReregisterWorker, StaticSecret, WorkerManager, WorkerName, WorkerProof,
    WorkerState,
};

fn simulator(kind: CloudKind) -> (Simulator, WorkerManager) {
    let simulator = Simulator::start(&Setup { kind, latency: Duration::ZERO }).unwrap();
    let manager = WorkerManager::new(simulator.operator().unwrap());
    (simulator, manager)
}

fn worker(id: &str) -> WorkerName {
    WorkerName {
        worker_pool_id: "proj-simulated/ci".parse().unwrap(),
        worker_group: "rack-1".parse().unwrap(),
        worker_id: id.parse().unwrap(),
    }
}

fn definition(secret: &StaticSecret, hours: i64) -> CreateWorker {
    CreateWorker {
        expires: Timestamp::now().saturating_add(SignedDuration::from_hours(hours)).unwrap(),
        capacity: None,
        provider_info: Some(ProviderInfo { static_secret: secret.clone() }),
    }
}

#[tokio::test]
async fn a_static_workers_whole_life() {
    let (simulator, manager) = simulator(CloudKind::Static);
    let (name, secret) = (worker("m-1"), StaticSecret::random().unwrap());
    let created = manager.create_worker(&name, &definition(&secret, 1)).await.unwrap();
    assert_eq!((created.state, u64::from(created.capacity)), (WorkerState::Running, 1));
    // The same again is the same; another secret is another worker.
    manager.create_worker(&name, &definition(&secret, 1)).await.unwrap();
    let other = StaticSecret::random().unwrap();
    let error = manager.create_worker(&name, &definition(&other, 1)).await.unwrap_err();
    assert!(error.failure.to_string().contains("worker already exists"), "{}", error.failure);

    let provider_id = "static".parse().unwrap();
    let proof = |secret: &StaticSecret| WorkerProof::Static { secret: secret.as_secret().clone() };
    let wrong = RegisterWorker::new(&name, &provider_id, &proof(&other));
    assert_eq!(manager.register_worker(&wrong).await.unwrap_err().status(), Some(400));
    let right = RegisterWorker::new(&name, &provider_id, &proof(&secret));
    let registration = manager.register_worker(&right).await.unwrap();
    let own = WorkerManager::new(simulator.operator().unwrap().with_credentials(registration.credentials));
    let renewal = own.reregister_worker(&ReregisterWorker::new(&name, &registration.secret)).await.unwrap();
    let again = own.reregister_worker(&ReregisterWorker::new(&name, &registration.secret)).await;
    assert_eq!(again.unwrap_err().status(), Some(400));
    drop(renewal);
    // A static worker may register again, until it is removed; its name is free once its row has ended.
    manager.register_worker(&right).await.unwrap();
    manager.remove_worker(&name).await.unwrap();
    assert_eq!(manager.worker(&name).await.unwrap().state, WorkerState::Stopped);
    assert!(manager.register_worker(&right).await.unwrap_err().is_already_registered());
    assert!(manager.create_worker(&name, &definition(&other, 1)).await.is_err());
    manager.update_worker(&name, &definition(&other, -1)).await.unwrap();
    assert_eq!(manager.worker(&name).await.unwrap_err().status(), Some(404));
    manager.create_worker(&name, &definition(&other, 1)).await.unwrap();
}

#[tokio::test]
async fn a_clouds_workers_are_not_made_by_hand_and_register_once() {
    let (simulator, manager) = simulator(CloudKind::Google);
    let (name, secret) = (worker("m-1"), StaticSecret::random().unwrap());
    let error = manager.create_worker(&name, &definition(&secret, 1)).await.unwrap_err();
    assert!(error.failure.to_string().contains("not supported"), "{}", error.failure);
    let machine = simulator.world(|world| world.taskcluster.workers.keys().next().cloned().unwrap());
    assert_eq!(manager.worker(&machine).await.unwrap().state, WorkerState::Requested);
    let proof = WorkerProof::Google { token: "canary-google-token".into() };
    let request = RegisterWorker::new(&machine, &"community-google".parse().unwrap(), &proof);
    manager.register_worker(&request).await.unwrap();
    assert!(manager.register_worker(&request).await.unwrap_err().is_already_registered());
}

#[tokio::test]
async fn a_pools_whole_life() {
    let (_simulator, manager) = simulator(CloudKind::Static);
    let id = "proj-simulated/fleet".parse().unwrap();
    let config =
        json!({"launchConfigs": [{"region": "x"}, {"workerManager": {"launchConfigId": "mine"}}], "kept": 1.5});
    let definition = CreateWorkerPool {
        provider_id: "static".parse().unwrap(),
        description: String::new(),
        config: config.as_object().unwrap().clone(),
        owner: "me@example.com".to_owned(),
        email_on_error: true,
    };
    manager.create_worker_pool(&id, &definition).await.unwrap();
    assert_eq!(manager.create_worker_pool(&id, &definition).await.unwrap_err().status(), Some(409));
    let launch = manager.list_worker_pool_launch_configs(&id, Archived::Excluded).all().await.unwrap();
    assert_eq!(launch.iter().map(|config| config.launch_config_id.as_str()).collect::<Vec<_>>(), ["lc-0", "mine"]);
    assert_eq!(manager.worker_pool_stats(&id).await.unwrap().launch_config_stats.len(), 2);
    let mut update = UpdateWorkerPool::from(manager.worker_pool(&id).await.unwrap());
    update.description = "changed".to_owned();
    let updated = manager.update_worker_pool(&id, &update).await.unwrap();
    assert_eq!((updated.description.as_str(), &updated.config["kept"]), ("changed", &json!(1.5)));
    let pools = manager.list_worker_pools_stats().all().await.unwrap();
    assert_eq!(pools.iter().map(|pool| pool.counts().running_count).collect::<Vec<_>>(), [1, 0]);
    manager.delete_worker_pool(&id).await.unwrap();
    assert_eq!(manager.worker_pool(&id).await.unwrap_err().status(), Some(404));
}

#[tokio::test]
async fn lists_are_filtered_and_come_in_pages() {
    let (_simulator, manager) = simulator(CloudKind::Static);
    let secret = StaticSecret::random().unwrap();
    for number in 0..5 {
        manager.create_worker(&worker(&format!("m-{number}")), &definition(&secret, 1)).await.unwrap();
    }
    manager.remove_worker(&worker("m-3")).await.unwrap();
    let pool = worker("m").worker_pool_id;
    let of = |state| WorkerFilter { state: Some(state), launch_config_id: None };
    let stopped = manager.list_workers_for_worker_pool(&pool, of(WorkerState::Stopped)).all().await.unwrap();
    assert_eq!(stopped.iter().map(|worker| worker.worker_id.as_str()).collect::<Vec<_>>(), ["m-3"]);
    let mut pages = manager.list_workers_for_worker_group(&pool, &"rack-1".parse().unwrap()).limit(4).pages();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        sizes.push(page.unwrap().items.len());
    }
    assert_eq!(sizes, [4, 2], "the machine of the simulation and five more");
    let nobody = manager.list_workers_for_worker_group(&pool, &"rack-2".parse().unwrap()).all().await.unwrap();
    assert!(nobody.is_empty());
    let filter = QueueWorkerFilter { quarantined: Some(true), ..QueueWorkerFilter::default() };
    assert!(manager.list_workers(&pool, filter).all().await.unwrap().is_empty());
}

#[tokio::test]
async fn errors_are_listed_newest_first_and_counted() {
    let (_simulator, manager) = simulator(CloudKind::Static);
    let name = worker("machine-1");
    for title in ["one", "two", "two"] {
        let report = ReportWorkerError {
            kind: "boot".to_owned(),
            title: title.to_owned(),
            description: String::new(),
            extra: serde_json::Map::new(),
        };
        manager.report_worker_error(&name, report).await.unwrap();
    }
    let all = WorkerPoolErrorFilter::default();
    let errors = manager.list_worker_pool_errors(&name.worker_pool_id, all).all().await.unwrap();
    assert_eq!(errors.len(), 3);
    assert_eq!(errors[0].extra["workerId"], "machine-1");
    let one = WorkerPoolErrorFilter { error_id: Some(errors[0].error_id.clone()), launch_config_id: None };
    assert_eq!(manager.list_worker_pool_errors(&name.worker_pool_id, one).all().await.unwrap().len(), 1);
    let stats = manager.worker_pool_error_stats(None).await.unwrap();
    assert_eq!((stats.totals.title["two"].as_u64(), stats.totals.daily.len()), (Some(2), 1));
}
