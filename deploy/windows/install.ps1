# Makes this machine a Taskcluster worker. From an elevated PowerShell, with start-worker.exe and runner.yml beside this file:
#   powershell -ExecutionPolicy Bypass -File install.ps1
#Requires -RunAsAdministrator
$ErrorActionPreference = 'Stop'
$program = Join-Path $env:ProgramFiles 'start-worker'
$data = Join-Path $env:ProgramData 'start-worker'

New-Item -ItemType Directory -Force -Path $program, $data | Out-Null
# What is in the data folder (secrets, logs) is for the system and administrators only; by number, for names are translated.
icacls $data /inheritance:r /grant '*S-1-5-18:(OI)(CI)F' '*S-1-5-32-544:(OI)(CI)F' | Out-Null
if ($LASTEXITCODE -ne 0) { throw "cannot make $data private" }
Copy-Item (Join-Path $PSScriptRoot 'start-worker.exe') $program -Force
$config = Join-Path $data 'runner.yml'
if (-not (Test-Path $config)) { Copy-Item (Join-Path $PSScriptRoot 'runner.yml') $config }

$startWorker = Join-Path $program 'start-worker.exe'
& $startWorker check $config
& $startWorker service install --config $config
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
& $startWorker service start
exit $LASTEXITCODE
