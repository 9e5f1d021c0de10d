# Makes this machine a Taskcluster worker. From an elevated PowerShell, with start-worker.exe and runner.yml beside this file:
#   powershell -ExecutionPolicy Bypass -File install.ps1
#Requires -RunAsAdministrator
$ErrorActionPreference = 'Stop'
$program = Join-Path $env:ProgramFiles 'start-worker'
$data = Join-Path $env:ProgramData 'start-worker'

# The system's and the administrators', by number, for names are translated.
$trusted = 'S-1-5-18', 'S-1-5-32-544'
function Assert-Trusted($path) {
    $link = (Get-Item -LiteralPath $path -Force).Attributes -band [IO.FileAttributes]::ReparsePoint
    if ($link) { throw "$path leads elsewhere: look at it, and move it away" }
    $owner = (Get-Acl -LiteralPath $path).GetOwner([Security.Principal.SecurityIdentifier]).Value
    if ($trusted -notcontains $owner) { throw "$path belongs to ${owner}: look at what is in it, and move it away" }
}

New-Item -ItemType Directory -Force -Path $program, $data | Out-Null
# Anybody may make folders in ProgramData, and files in them: what is in this one decides what runs as the system.
Assert-Trusted $data
# It is for the system and administrators only from now on, for there are secrets and logs in it.
$access = New-Object Security.AccessControl.DirectorySecurity
$access.SetSecurityDescriptorSddlForm('O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)', 'Access, Owner')
Set-Acl -LiteralPath $data -AclObject $access
Copy-Item (Join-Path $PSScriptRoot 'start-worker.exe') $program -Force
$config = Join-Path $data 'runner.yml'
$logs = Join-Path $data 'logs'
if (Test-Path -LiteralPath $logs) { Assert-Trusted $logs }
if (Test-Path -LiteralPath $config) { Assert-Trusted $config } else { Copy-Item (Join-Path $PSScriptRoot 'runner.yml') $config }

$startWorker = Join-Path $program 'start-worker.exe'
& $startWorker check $config
& $startWorker service install --config $config
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
& $startWorker service start
exit $LASTEXITCODE
